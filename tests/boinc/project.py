#!/usr/bin/env python3
"""A BOINC project small enough for a test: master page, scheduler, downloads, uploads, and a record of all that happened.

  project.py --url http://HOST:PORT --dir FOLDER --jobs N --seconds S APP…      job n is for the APP number n modulo their count
  GET /record                      what happened, as JSON: jobs, hosts, requests
  GET /set?mode=up|no-work|maintenance|refuse|unavailable&delay=SECONDS&jobs=N    unavailable: 503 for everybody else; delay: the project's
                                   wish to be left alone, in each answer; jobs: so many more
Listens where the url says. The account key that it knows is in FOLDER/key, made if there is none. Everything is on disk before it is
answered, so that a server that was killed goes on where it was.

What decides who is who, and what is lost, is decided as BOINC's own scheduler does (sched/handle_request.cpp, sched/sched_send.cpp):
else a test with it would show nothing.
"""
import argparse
import hashlib
import json
import math
import os
import random
import re
import secrets
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlparse

PLATFORM = "x86_64-pc-linux-gnu" if os.uname().machine == "x86_64" else f"{os.uname().machine}-unknown-linux-gnu"
LOCK = threading.RLock()


class Signer:
    """Text-book RSA with 1024 bits, in BOINC's own text form: a client runs only what the first key that it saw has signed."""
    bits = 1024

    def __init__(self, path):
        if not os.path.exists(path):
            p, q = self.prime(), self.prime()
            keep(path, {"n": p * q, "d": pow(65537, -1, (p - 1) * (q - 1))})
        with open(path, encoding="ascii") as file:
            key = json.load(file)
        self.n, self.d = key["n"], key["d"]
        self.public = f"{self.bits}\n{self.lines(f'{self.n:0256x}{65537:0256x}')}\n."

    def prime(self):
        while True:
            n = secrets.randbits(self.bits // 2) | (3 << (self.bits // 2 - 2)) | 1
            # the exponent must have an inverse; Fermat's test with some bases is enough for a test
            if math.gcd(n - 1, 65537) == 1 and all(pow(random.randrange(2, n), n - 1, n) == 1 for _ in range(12)):
                return n

    @staticmethod
    def lines(digits):
        return "\n".join(digits[at:at + 64] for at in range(0, len(digits), 64))

    def sign(self, data):
        digest = hashlib.md5(data).hexdigest().encode()
        size = self.bits // 8
        padded = b"\0\1" + b"\xff" * (size - 3 - len(digest)) + b"\0" + digest
        return self.lines(f"{pow(int.from_bytes(padded, 'big'), self.d, self.n):0256x}") + "\n."


def keep(path, what):
    with open(path + ".new", "w", encoding="utf-8") as file:
        json.dump(what, file, indent=1)
    os.replace(path + ".new", path)


def tag(name, text, default=""):
    found = re.search(rf"<{name}>\s*(.*?)\s*</{name}>", text, re.S)
    return found.group(1) if found else default


def blocks(name, text):
    return re.findall(rf"<{name}>(.*?)</{name}>", text, re.S)


def xml(**fields):
    return "".join(f"<{name}>{value}</{name}>" for name, value in fields.items())


class Project:
    facts = ("host_cpid", "domain_name", "ip_addr", "os_name", "p_ncpus", "p_model", "m_nbytes", "d_total")

    def __init__(self, options):
        self.url, self.dir, self.seconds = options.url.rstrip("/"), options.dir, options.seconds
        os.makedirs(self.dir + "/uploads", exist_ok=True)
        if not os.path.exists(self.dir + "/key"):
            with open(self.dir + "/key", "w", encoding="ascii") as file:
                file.write(secrets.token_hex(16) + "\n")
        with open(self.dir + "/key", encoding="ascii") as file:
            self.key = file.read().strip()
        self.signer = Signer(self.dir + "/signer")
        self.apps = {}
        for path in options.apps:
            with open(path, "rb") as file:
                self.apps[os.path.basename(path).split(".")[0]] = file.read()
        self.mode, self.delay = "up", 0.0
        self.record = {"jobs": {}, "hosts": {}, "requests": [], "counts": {}}
        if os.path.exists(self.dir + "/record"):
            with open(self.dir + "/record", encoding="utf-8") as file:
                self.record = json.load(file)
        else:
            self.add_jobs(options.jobs)

    def add_jobs(self, count):
        jobs, apps = self.record["jobs"], list(self.apps)
        for number in range(len(jobs) + 1, len(jobs) + count + 1):
            jobs[f"job{number}"] = {"app": apps[number % len(apps)], "state": "unsent", "sent": [], "done": [], "failed": []}
        self.save()

    def save(self):
        keep(self.dir + "/record", self.record)

    def count(self, what):
        self.record["counts"][what] = self.record["counts"].get(what, 0) + 1

    # ---- who asks ----

    def find_host(self, request):
        """Its own number, if its count of requests did not go back; else a host of the same cpid; else one that looks the same."""
        hosts = self.record["hosts"]
        number, count = tag("hostid", request, "0"), int(tag("rpc_seqno", request, "0"))
        facts = {name: tag(name, tag("host_info", request)) for name in self.facts}
        host, how = hosts.get(number), "its number"
        if host is None or count < host["count"]:
            host, count = None, 0
            for how, names in (("the same cpid", ["host_cpid"]), ("the same looks", ["domain_name", "ip_addr", "os_name", "p_model"])):
                same = [n for n, other in hosts.items() if all(facts[name] and other[name] == facts[name] for name in names)]
                if same and host is None:
                    number, host = same[-1], hosts[same[-1]]
                    break
            if host is None:
                number, how = str(len(hosts) + 1), "new"
                host = hosts[number] = {}
            elif not blocks("other_result", request):
                self.take_back(number, set())  # a client that was set up anew: what it had is gone
        host.update(facts, count=count)
        return number, how

    def take_back(self, number, has):
        """Jobs that the host does not list are lost, and given out again. Returns how many."""
        gone = [name for name, job in self.record["jobs"].items()
                if job["state"] == "sent" and job["sent"][-1]["host"] == number and name not in has]
        for name in gone:
            self.record["jobs"][name]["state"] = "unsent"
            self.count("lost")
        return len(gone)

    # ---- the scheduler ----

    def schedule(self, request):
        known = tag("authenticator", request) == self.key and self.mode != "refuse"
        seen = {"at": round(time.time(), 1), "mode": self.mode, "known": known,
                "asks": float(tag("cpu_req_secs", request, "0")), "instances": float(tag("cpu_req_instances", request, "0")),
                "reports": [tag("name", result) for result in blocks("result", request)]}
        self.record["requests"].append(seen)
        with open(self.dir + "/last_request.xml", "w", encoding="utf-8") as file:
            file.write(request)
        if self.mode == "maintenance":
            return self.answer(['<message priority="notice">Project is temporarily shut down for maintenance</message>',
                                "<project_is_down/>", xml(request_delay=3600.0)])
        if not known:
            return self.answer(['<message priority="notice">Invalid or missing account key.  To fix, remove and add this project.</message>',
                                xml(request_delay=86400.0)])
        number, how = self.find_host(request)
        seen.update(host=number, by=how)
        parts = [self.take_report(number, result) for result in blocks("result", request)]
        self.take_back(number, {tag("name", other) for other in blocks("other_result", request)} | set(seen["reports"]))
        wanted = 0
        if seen["asks"] > 0 or seen["instances"] > 0:
            wanted = max(1, int(seen["instances"]), int(seen["asks"] // self.seconds))
        free = [name for name, job in self.record["jobs"].items() if job["state"] == "unsent" and self.mode != "no-work"]
        given = free[:wanted]
        seen["given"] = given
        if wanted and not given:
            parts.append('<message priority="high">Project has no tasks available</message>')
        if self.delay:
            parts.append(xml(request_delay=self.delay))
        if how != "its number":  # with a number in the answer a client counts its requests from 0 again
            parts.append(xml(hostid=number))
        if "<code_sign_key>" not in request:
            parts.append(f"<code_sign_key>\n{self.signer.public}\n</code_sign_key>")
        parts.append(xml(project_name="Lab", userid=1, user_name="volunteer"))
        for app in {self.record["jobs"][name]["app"] for name in given}:
            parts.append(self.describe_app(app))
        for name in given:
            self.record["jobs"][name]["state"] = "sent"
            self.record["jobs"][name]["sent"].append({"host": number, "at": seen["at"]})
            parts.append(self.describe_job(name))
        return self.answer(parts)

    def answer(self, parts):
        self.save()
        head = xml(scheduler_version=709, master_url=self.url + "/")
        return f"<scheduler_reply>{head}{''.join(parts)}</scheduler_reply>"

    def take_report(self, number, result):
        name = tag("name", result)
        job = self.record["jobs"].get(name)
        if job is not None:
            well = tag("exit_status", result) == "0" and tag("state", result) == "5" and os.path.exists(f"{self.dir}/uploads/{name}")
            job["done" if well else "failed"].append({"host": number, "at": round(time.time(), 1), "exit": tag("exit_status", result)})
            if well:
                job["state"] = "done"
            elif job["state"] != "done":
                job["state"] = "unsent"
        return f"<result_ack>{xml(name=name)}</result_ack>"

    def describe_app(self, app):
        data = self.apps[app]
        return (f"<app>{xml(name=app, user_friendly_name=app)}</app>"
                f"<file_info>{xml(name=app, url=f'{self.url}/download/{app}', nbytes=len(data), md5_cksum=hashlib.md5(data).hexdigest())}"
                f"<executable/><file_signature>\n{self.signer.sign(data)}\n</file_signature></file_info>"
                f"<app_version>{xml(app_name=app, version_num=100, platform=PLATFORM, avg_ncpus=1.0, flops=1e9)}"
                f"<file_ref>{xml(file_name=app)}<main_program/></file_ref></app_version>")

    def describe_job(self, name):
        app = self.record["jobs"][name]["app"]
        work = self.seconds * 1e9
        return (f"<file_info>{xml(name=name, max_nbytes=1000000, upload_url=self.url + '/upload')}<upload_when_present/></file_info>"
                f"<workunit>{xml(name='wu_' + name, app_name=app, version_num=100, rsc_fpops_est=work, rsc_fpops_bound=work * 1000)}"
                f"{xml(rsc_memory_bound=2e7, rsc_disk_bound=2e7, command_line=f'{name} {self.seconds}')}</workunit>"
                f"<result>{xml(name=name, wu_name='wu_' + name, platform=PLATFORM, version_num=100)}"
                f"{xml(report_deadline=int(time.time()) + 86400)}"
                f"<file_ref>{xml(file_name=name, open_name='out.txt')}<copy_file/></file_ref></result>")

    def upload(self, body):
        """A header, and the file's bytes behind <data>; get_file_size asks where to go on."""
        head, _, data = body.partition(b"<data>\n")
        head = head.decode("latin-1")
        asked = tag("get_file_size", head)
        path = f"{self.dir}/uploads/{os.path.basename(asked or tag('name', head))}"
        if asked:
            size = os.path.getsize(path) if os.path.exists(path) else 0
            return f"<data_server_reply>{xml(status=0, file_size=size)}</data_server_reply>"
        offset = int(tag("offset", head, "0"))
        with open(path, "r+b" if offset else "wb") as file:
            file.seek(offset)
            file.write(data[:int(float(tag("nbytes", head))) - offset])
        return f"<data_server_reply>{xml(status=0)}</data_server_reply>"

    def set(self, words):
        self.mode, self.delay = words.get("mode", self.mode), float(words.get("delay", self.delay))
        self.add_jobs(int(words.get("jobs", 0)))

    def page(self):
        return f'<html><head><link rel="boinc_scheduler" href="{self.url}/cgi"></head><body>Lab <scheduler>{self.url}/cgi</scheduler></body></html>\n'


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def reply(self, body, code=200, kind="text/xml"):
        body = body.encode() if isinstance(body, str) else body
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        project, asked = self.server.project, urlparse(self.path)
        with LOCK:
            if asked.path == "/set":
                project.set(dict(parse_qsl(asked.query)))
                self.reply("set\n")
            elif asked.path == "/record":
                self.reply(json.dumps(project.record, indent=1), kind="application/json")
            elif project.mode == "unavailable":
                self.reply("unavailable\n", 503)
            elif asked.path == "/":
                self.reply(project.page(), kind="text/html")
            elif asked.path.startswith("/download/") and asked.path[10:] in project.apps:
                self.reply(project.apps[asked.path[10:]], kind="application/octet-stream")
            else:
                self.reply("not found\n", 404)

    def do_POST(self):
        project = self.server.project
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with LOCK:
            if project.mode == "unavailable":
                self.reply("unavailable\n", 503)
            elif self.path == "/cgi":
                self.reply(project.schedule(body.decode("utf-8", "replace")))
            elif self.path == "/upload":
                self.reply(project.upload(body))
            else:
                self.reply("not found\n", 404)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--dir", required=True)
    parser.add_argument("--jobs", type=int, default=0)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("apps", nargs="+")
    options = parser.parse_args()
    place = urlparse(options.url)
    ThreadingHTTPServer.daemon_threads = True
    server = ThreadingHTTPServer((place.hostname, place.port or 80), Handler)
    server.project = Project(options)
    server.serve_forever()


if __name__ == "__main__":
    main()
