"""What is asked of the proxies, and what it costs them."""

import json
import os
import re
import resource
import statistics
import subprocess
import time

import contenders

MEBIBYTE = 1 << 20


class Scenario:
    """`load(bench, process, seconds)` asks as much as it can for so long, and returns how many units were done."""

    def __init__(self, title, load, unit="request", services=1, contenders=None):
        self.title, self.load, self.unit, self.services, self.contenders = title, load, unit, services, contenders


class Bench:
    """Generators, run on their core, and how busy they and the origins are."""

    def __init__(self, folder, origins):
        self.folder, self.origins = folder, origins

    def run(self, *command):
        command = ["taskset", "-c", str(self.folder.load_core), *map(str, command)]
        ended = subprocess.run(command, cwd=self.folder.path, capture_output=True, text=True)
        if ended.returncode:
            raise RuntimeError(f"{command[3]}: {ended.stdout[-500:]} {ended.stderr[-500:]}")
        return ended.stdout

    def load(self, command, *arguments):
        """One of our own generators; most want the certificate."""
        cert = [] if command == "websocket" else ["--cert", "cert.pem"]
        return json.loads(self.run(self.folder.programs["load"], command, *arguments, *cert))

    def measure(self, scenario, process, seconds):
        """One turn of one contender."""
        generators = children_seconds()
        origins, proxy = self.origins_ns(), process.cpu_ns()
        begin = time.monotonic()
        units = scenario.load(self, process, seconds)
        wall = time.monotonic() - begin
        proxy, origins = process.cpu_ns() - proxy, self.origins_ns() - origins
        generators = children_seconds() - generators
        cores = 1 if self.folder.load_core == self.folder.origin_core else 2
        busiest = max(generators, origins / 1e9) if cores == 2 else generators + origins / 1e9
        return {"units": units, "seconds": wall, "micros": proxy / units / 1000, "per_second": units / seconds,
                "proxy_busy": proxy / 1e9 / seconds, "load_busy": busiest / seconds}

    def origins_ns(self):
        return sum(origin.cpu_ns() for origin in self.origins)


def children_seconds():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def wrk(connections, path="/", secure=False, script=None, headers=(), unit_bytes=None):
    def load(bench, process, seconds):
        url = f"https://127.0.0.1:{process.secure}{path}" if secure else f"http://127.0.0.1:{process.plain}{path}"
        script_arguments = []
        if script:
            file = bench.folder.path / "wrk.lua"
            file.write_text(script)
            script_arguments = ["-s", file]
        headers_arguments = [argument for header in headers for argument in ("-H", header)]
        out = bench.run("wrk", "-t1", f"-c{connections}", "-d", seconds, "--timeout", "30s", *headers_arguments,
                        *script_arguments, url)
        # A connection that ends as it should is a read error to wrk.
        if "Non-2xx" in out or ("Socket errors" in out and "Connection: close" not in headers):
            raise RuntimeError(out)
        if unit_bytes:
            # Whole answers, and what has come of the others.
            amount, unit = re.search(r"in [\d.]+\w+, ([\d.]+)([KMGT]?)B read", out).groups()
            return float(amount) * 1024 ** " KMGT".index(unit or " ") / unit_bytes
        return int(re.search(r"(\d+) requests in", out)[1])

    return load


def h2load(connections, streams, path="/", body=None, headers=()):
    def load(bench, process, seconds):
        body_arguments = []
        if body is not None:
            file = bench.folder.path / "message"
            file.write_bytes(body)
            body_arguments = ["-d", file]
        headers_arguments = [argument for header in headers for argument in ("-H", header)]
        out = bench.run("h2load", "-c", connections, "-m", streams, "-D", seconds, *headers_arguments, *body_arguments,
                        f"https://127.0.0.1:{process.secure}{path}")
        if " 0 failed" not in out or " 0 errored" not in out or " 0 5xx" not in out:
            raise RuntimeError(out)
        return int(re.search(r"requests: (\d+) total", out)[1])

    return load


def post(size):
    return f'wrk.method = "POST"; wrk.body = string.rep("x", {size})'


def handshakes(*arguments):
    def load(bench, process, seconds):
        counts = bench.load("handshakes", f"127.0.0.1:{process.secure}", "--seconds", seconds, *arguments)
        if "--resumed" in arguments and counts["resumed"] < 0.9 * counts["requests"]:
            raise RuntimeError(f"only {counts['resumed']} of {counts['requests']} were resumed")
        return counts["requests"]

    return load


def websocket(bench, process, seconds):
    return bench.load("websocket", f"127.0.0.1:{process.plain}", "--seconds", seconds)["requests"]


# Fifty of 10,000 hosts in turn: few enough for each service to keep its own connections.
HOSTS = """
local requests, at = {}, 0
init = function()
  for n = 0, 49 do requests[n] = wrk.format(nil, "/", { Host = "shop" .. n * 199 .. ".test" }) end
end
request = function()
  at = (at + 1) % 50
  return requests[at]
end
"""
GRPC_MESSAGE = b"\0\0\0\0\x0d\x0a\x0bhello there"
GRPC_HEADERS = ("content-type: application/grpc", "te: trailers")

SCENARIOS = {
    "h1": Scenario("HTTP/1.1, 64 connections", wrk(64), contenders=["relay"]),
    "h1x8": Scenario("HTTP/1.1, 8 connections", wrk(8), contenders=["relay"]),
    "tls": Scenario("HTTP/1.1 over TLS, 64 connections", wrk(64, secure=True)),
    "tlsx8": Scenario("HTTP/1.1 over TLS, 8 connections", wrk(8, secure=True)),
    "h2": Scenario("HTTP/2, 8 connections × 32 streams", h2load(8, 32)),
    "h2x64": Scenario("HTTP/2, 64 connections × 1 stream", h2load(64, 1)),
    "grpc": Scenario("gRPC unary, 8 × 32", h2load(8, 32, "/bench.Echo/Ask", GRPC_MESSAGE, GRPC_HEADERS)),
    "post": Scenario("POST of 16 KiB, 64 connections", wrk(64, script=post(16 << 10)), contenders=["relay"]),
    "down1m": Scenario("1 MiB down, 16 connections", wrk(16, "/files/1m", unit_bytes=MEBIBYTE), contenders=["relay"]),
    "down100m": Scenario(
        "100 MiB down, 4 connections", wrk(4, "/files/100m", unit_bytes=MEBIBYTE), "MiB", contenders=["relay"]),
    "up1m": Scenario("1 MiB up, 16 connections", wrk(16, "/up", script=post(MEBIBYTE)), contenders=["relay"]),
    "handshake": Scenario("TLS 1.3, full handshake for each request", handshakes()),
    "resumed": Scenario("TLS 1.3, resumed handshake for each request", handshakes("--resumed")),
    "websocket": Scenario("WebSocket, 64 connections", websocket, "message"),
    "close": Scenario("new connection for each request, 64 at once", wrk(64, headers=("Connection: close",))),
    "routes": Scenario("HTTP/1.1, 10,000 services", wrk(64, script=HOSTS), services=contenders.SERVICES),
}


def compare(bench, scenario, processes, rounds, seconds):
    """Contenders in turn, so that a machine that changes its speed changes it for all."""
    turns = {name: [] for name in processes}
    for name, process in list(processes.items()):
        try:
            scenario.load(bench, process, 1)
        except RuntimeError as error:
            say(f"   {name} can't: {' '.join(str(error).split())[:300]}")
            del processes[name], turns[name]
    for _ in range(rounds):
        for name, process in processes.items():
            turns[name].append(bench.measure(scenario, process, seconds))
    return turns


def latencies(bench, processes, capacity, given):
    """Open loops at a half and a quarter of tidegate's saturation, by transport; without a proxy, too."""
    direct = contenders.Process(None, "direct", contenders.HTTP[0], contenders.ORIGIN_TLS)
    found = {}
    for transport, scenario in (("plain", "h1"), ("tls", "tls"), ("h2", "h2")):
        for share in (0.25, 0.5):
            rate = max(100, int(share * capacity[scenario]["tidegate"]) // 100 * 100)
            rate = min(rate, affordable(bench, transport, direct))
            turns = {name: [] for name in ("direct", *processes) if name == "direct" or
                     capacity[scenario].get(name, 0) > 1.1 * rate}
            for _ in range(max(1, given.rounds // 2)):
                for name in turns:
                    turns[name].append(open_loop(bench, {"direct": direct, **processes}[name], transport, rate, given.seconds * 2))
            found[f"{transport} at {share:.0%}"] = {"transport": transport, "share": share, "rate": rate, "turns": turns,
                                                     "saturated": [name for name in processes if name not in turns]}
    return found


def open_loop(bench, process, transport, rate, seconds):
    port = process.plain if transport == "plain" else process.secure
    return bench.load("open", f"127.0.0.1:{port}", "--transport", transport, "--rate", rate, "--seconds", seconds)


def affordable(bench, transport, direct):
    """A rate that leaves generator and origin half of their core, and so no queue of their own."""
    rate, seconds = 2000, 1
    generators, origins, begin = children_seconds(), bench.origins_ns(), time.monotonic()
    open_loop(bench, direct, transport, rate, seconds)
    busy = children_seconds() - generators + (bench.origins_ns() - origins) / 1e9
    return max(100, int(0.5 * rate * (time.monotonic() - begin) / busy) // 100 * 100)


def memory(bench, name, connections, slow_readers):
    """Bytes of a fresh process: at start, for each connection of a kind, and what stays once all are closed."""
    found = {}
    kinds = [("plain", connections, []), ("tls", connections, []), ("h2", connections, []),
             ("slow", slow_readers, ["--slow", "/files/100m"])]
    for kind, count, arguments in kinds:
        process = contenders.start(name, bench.folder)
        try:
            time.sleep(1)
            at_start = process.memory_bytes()
            port = process.plain if kind in ("plain", "slow") else process.secure
            command = [bench.folder.programs["load"], "held", f"127.0.0.1:{port}", "--connections", str(count), "--cert",
                       "cert.pem", "--transport", "plain" if kind == "slow" else kind, *arguments]
            holder = subprocess.Popen(command, cwd=bench.folder.path, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                      stderr=subprocess.PIPE, text=True)
            if not holder.stdout.readline():
                say(f"   {name} can't hold {count} {kind}: {holder.stderr.read()[:300]}")
                continue
            time.sleep(4)
            held = process.memory_bytes()
            holder.stdin.close()
            holder.wait()
            time.sleep(6)
            found[kind] = {"start": at_start, "each": (held - at_start) / count, "connections": count,
                           "closed": process.memory_bytes() - at_start}
        finally:
            process.stop()
    return found


def scaling(bench, names, rounds, seconds):
    """Cost per request with one worker and with two, and how evenly the two share: what two can do at most is limited
    by the busier one. Generator and origin have a part in what is measured, and none in what is worked out."""
    found = {}
    scenario = Scenario("", wrk(256))
    for name in names:
        one, two = contenders.start(name, bench.folder), contenders.start(name, bench.folder, workers=2)
        try:
            ratios, busiest = [], []
            for process in (one, two):
                scenario.load(bench, process, 1)
            for _ in range(rounds):
                alone = bench.measure(scenario, one, seconds)["micros"]
                before = two.threads_ns()
                each = bench.measure(scenario, two, seconds)["micros"]
                used = sorted(now - before.get(thread, 0) for thread, now in two.threads_ns().items())
                busiest.append(used[-1] / sum(used))
                ratios.append(alone / (each * busiest[-1]))
            found[name] = {"times": statistics.median(ratios), "busier": statistics.median(busiest)}
        finally:
            one.stop()
            two.stop()
    return found


def services(bench, names, rounds, seconds):
    """The same requests for fifty hosts: among 10,000 services, and to one that takes all hosts."""
    found = {}
    scenario = SCENARIOS["routes"]
    for name in names:
        one, many = contenders.start(name, bench.folder), contenders.start(name, bench.folder, services=contenders.SERVICES)
        try:
            turns = compare(bench, scenario, {"one": one, "many": many}, rounds, seconds)
            if len(turns) < 2:
                continue
            ratios = [many["micros"] / one["micros"] for one, many in zip(turns["one"], turns["many"])]
            found[name] = {"ratio": statistics.median(ratios), "micros": statistics.median(t["micros"] for t in turns["many"])}
        finally:
            one.stop()
            many.stop()
    return found


def reload(bench, seconds):
    """Clients of 10,000 services while the file is read again every two seconds. The process has both cores, so that what
    reads the file isn't in the worker's way because of a harness that pins it there."""
    process = contenders.start("tidegate", bench.folder, services=contenders.SERVICES)
    for task in os.listdir(f"/proc/{process.tree()[-1]}/task"):
        os.sched_setaffinity(int(task), bench.folder.two_cores)
    command = ["taskset", "-c", str(bench.folder.load_core), bench.folder.programs["load"], "open",
               f"127.0.0.1:{process.plain}", "--cert", "cert.pem", "--transport", "plain", "--host", "shop7.test", "--rate",
               "1000", "--seconds"]
    try:
        found = {}
        for name, reloads in (("calm", 0), ("reloading", 2 * seconds)):
            load = subprocess.Popen([*command, str(4 * seconds)], cwd=bench.folder.path, stdout=subprocess.PIPE, text=True)
            time.sleep(0.5)
            for _ in range(reloads):
                process.reload()
                time.sleep(2)
            found[name] = json.loads(load.communicate()[0])
        return found
    finally:
        process.stop()


def say(text):
    print(text, flush=True)
