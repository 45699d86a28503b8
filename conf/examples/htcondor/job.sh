#!/bin/sh
sleep 5
echo "this is job $1"
