"""A pilot for RabbitMQ: takes one job, runs it, publishes its result, acknowledges it, and is gone.

The order is what makes it safe: the server has the result on disk before the job is acknowledged, so a pilot that is
killed at any moment loses nothing. Its job is delivered again, at worst done twice, and collected once.
Exit codes: 0 a job is done, whatever it said; 75 there was none; 1 the server could not be had, or was lost.
"""
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time

import jobs

NO_WORK = 75
OUTPUT_BYTES = 65536  # the end of what a job says goes into its result
MARGIN_SECONDS = 60  # a job is ended so long before the pilot would be, to be told rather than tried for ever


def take(channel):
    """One job, or None; the consumer goes at once, or the server would send the next job with the acknowledgement."""
    for method, properties, body in channel.consume("jobs", inactivity_timeout=jobs.IDLE_SECONDS):
        break
    channel.cancel()
    return None if method is None else (method, properties, body)


def run(job, script, seconds):
    """Exit code as a shell tells it, 124 for a job that took too long, and the end of the output."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as output:
        path = os.path.join(folder, "job")
        with open(path, "wb") as file:
            file.write(script)
        child = subprocess.Popen(["/bin/sh", path], cwd=folder, env=dict(os.environ, JOB_ID=job), stdin=subprocess.DEVNULL,
                                 stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            code = child.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            code = 124
        size = output.seek(0, os.SEEK_END)
        output.seek(max(0, size - OUTPUT_BYTES))
        return code if code >= 0 else 128 - code, output.read().decode("utf-8", "replace")


def main():
    connection, channel = jobs.connect()
    taken = take(channel)
    if taken is None:
        connection.close()
        return NO_WORK
    method, properties, script = taken
    job = properties.message_id
    deliveries = 1 + (properties.headers or {}).get("x-delivery-count", 0)
    print(f"job {job}, delivery {deliveries}", flush=True)
    began = time.time()
    deadline = float(os.environ.get("PLANCTON_DEADLINE", "inf"))
    seconds = None if deadline == float("inf") else max(1.0, deadline - MARGIN_SECONDS - began)
    code, output = run(job, script, seconds)
    result = {"id": job, "exit": code, "output": output, "seconds": round(time.time() - began, 3), "deliveries": deliveries,
              "pilot": socket.gethostname(), "host": os.environ.get("PLANCTON_HOST", "")}
    jobs.publish(channel, "results", "", job, json.dumps(result))
    channel.basic_ack(method.delivery_tag)
    connection.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
