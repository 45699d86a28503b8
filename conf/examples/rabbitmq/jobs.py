"""Jobs in a RabbitMQ queue, and their results out of another one. Wants pika (Debian, Ubuntu: python3-pika).

  python3 jobs.py submit ID COMMAND    one job: a command line or a small script, for /bin/sh
  python3 jobs.py submit < LIST        one job a line: ID COMMAND
  python3 jobs.py collect FOLDER       each result into FOLDER/ID.json, once; ends when none came for some seconds

The server's address is in the file that AMQP_URL_FILE names (submit.url): amqp://USER:PASSWORD@HOST:5672/VHOST, or amqps://.
"""
import json
import os
import re
import sys

import pika

DELIVERIES = 21  # at most: a job that ends every pilot must not go round for ever
IDLE_SECONDS = float(os.environ.get("IDLE_SECONDS", "10"))  # nothing came for so long: there is no more


def connect():
    """No heartbeat: a paused process can't send one, and is to keep its job. That the other machine is gone is told by
    the keep-alive of TCP, which the kernel answers for a paused process too."""
    with open(os.environ.get("AMQP_URL_FILE", "/run/secrets/amqp-url"), encoding="utf-8") as file:
        parameters = pika.URLParameters(file.read().strip())
    parameters.heartbeat = 0
    parameters.tcp_options = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 20, "TCP_KEEPCNT": 6}
    connection = pika.BlockingConnection(parameters)
    channel = connection.channel()
    channel.basic_qos(prefetch_count=1)
    channel.confirm_delivery()  # a publish returns when the server has it on disk, and raises if it has not
    return connection, channel


def declare(channel):
    """Both queues outlive the server. A job that was delivered too often is handed to the results as it is."""
    channel.exchange_declare("results", "fanout", durable=True)
    channel.queue_declare("results", durable=True, arguments={"x-queue-type": "quorum"})
    channel.queue_bind("results", "results")
    channel.queue_declare("jobs", durable=True, arguments={
        "x-queue-type": "quorum", "x-delivery-limit": DELIVERIES - 1, "x-dead-letter-exchange": "results",
        "x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"})


def publish(channel, exchange, queue, job, body):
    keep = pika.BasicProperties(message_id=job, delivery_mode=2)
    channel.basic_publish(exchange, queue, body, keep, mandatory=True)


def submit(channel, jobs):
    count = 0
    for job, command in jobs:
        if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}", job) or not command.strip():
            sys.exit(f"{job!r}: an id of letters, digits, '.', '_' and '-' and a command are needed; {count} submitted")
        publish(channel, "", "jobs", job, command)
        count += 1
    print(f"{count} submitted")


def read_result(properties, body):
    if "x-death" not in (properties.headers or {}):
        return json.loads(body)
    return {"id": properties.message_id, "exit": None, "output": f"given up after {DELIVERIES} deliveries"}


def collect(channel, folder):
    """A job counts once however often it was done: the first result stays. Each is on disk before it is acknowledged."""
    os.makedirs(folder, exist_ok=True)
    new = again = 0
    for method, properties, body in channel.consume("results", inactivity_timeout=IDLE_SECONDS):
        if method is None:
            break
        result = read_result(properties, body)
        path = os.path.join(folder, result["id"] + ".json")
        with open(path + ".new", "w", encoding="utf-8") as file:
            json.dump(result, file)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(path + ".new", path)
            new += 1
        except FileExistsError:
            again += 1
        os.unlink(path + ".new")
        channel.basic_ack(method.delivery_tag)
        print(result["id"], result["exit"], result.get("pilot", "-"), result.get("deliveries", "-"), flush=True)
    print(f"{new} new, {again} done more than once", file=sys.stderr)


def main(words):
    if words[1:2] not in (["submit"], ["collect"]) or (words[1] == "collect") != (len(words) == 3):
        sys.exit(__doc__)
    connection, channel = connect()
    declare(channel)
    if words[1] == "collect":
        collect(channel, words[2])
    elif len(words) > 3:
        submit(channel, [(words[2], " ".join(words[3:]))])
    else:
        submit(channel, [line.split(None, 1) for line in sys.stdin if len(line.split(None, 1)) == 2])
    connection.close()


if __name__ == "__main__":
    main(sys.argv)
