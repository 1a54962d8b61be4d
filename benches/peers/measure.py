#!/usr/bin/env python3
"""tidegate beside its peers, each with one worker, in turn, in one run.

    benches/peers/run                                     everything; 20 minutes or so
    benches/peers/run --rounds 2 --seconds 1 h1 tls       two scenarios
    benches/peers/run --peers nginx,relay --only cpu      some peers, and only the CPU time of requests
    benches/peers/run --guard                             tidegate beside itself without guard, ejection, retries, rescue
    benches/peers/run --guard --before OTHER/tidegate     and beside another build of it
    benches/peers/run --before OTHER/tidegate --peers "" h1
    benches/peers/run --markdown                          measures nothing, shows the tables of the last run
    benches/peers/run --markdown --docs                   and puts them into docs/benchmarks.md, with charts

Proxies run on one core, generators on another, origins on a third if there is one. CPU time is the kernel's own
account (schedstat) of the whole process tree, user and system. Only ratios, which are of turns beside each other, mean
anything from one machine to another. All figures go to target/peers/results.json; with --docs, what they come to goes to docs/benchmarks.md and
docs/charts.
"""

import argparse
import json
import os
import pathlib
import platform
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import contenders
import report
import scenarios
from scenarios import SCENARIOS, Bench, say

PARTS = ["cpu", "latency", "memory", "scaling", "services", "reload"]


def main():
    given = arguments()
    results = json.loads(given.out.read_text()) if given.markdown else measure(given)
    print(report.markdown(results))
    if given.docs:
        report.put_into_docs(results, contenders.ROOT / "docs")


def measure(given):
    # Each proxy may need thousands of descriptors.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as path:
        programs, names = choose(given)
        folder = contenders.Folder(path, programs)
        origins = contenders.start_origins(folder)
        bench = Bench(folder, origins)
        try:
            results = {"machine": machine(programs, names), "rounds": given.rounds, "seconds": given.seconds}
            run(bench, names, given, results)
        finally:
            for origin in origins:
                origin.stop()
    results["minutes"] = (time.monotonic() - begin) / 60
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(results, indent=1) + "\n")
    say(f"== {results['minutes']:.0f} minutes; all figures: {given.out}\n")
    return results


def arguments():
    parser = argparse.ArgumentParser(prog="benches/peers/run", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"default: all of {', '.join(SCENARIOS)}")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--seconds", type=int, default=2, help="of a turn; default: %(default)s")
    parser.add_argument("--peers", metavar="NAMES", help=f"default: {','.join(contenders.PEERS)},relay, as far as they are here")
    parser.add_argument("--only", metavar="PARTS", help=f"default: {','.join(PARTS)}")
    parser.add_argument("--guard", action="store_true", help="what judging, ejecting, retrying and rescuing cost")
    parser.add_argument("--before", metavar="BINARY", help="another build of tidegate")
    parser.add_argument("--guided", metavar="BINARY", help="what benches/pgo/run has built; default: that, if it is there")
    parser.add_argument("--connections", type=int, default=4000, help="that idle; default: %(default)s")
    parser.add_argument("--slow-readers", type=int, default=1000, help="default: %(default)s")
    parser.add_argument("--tidegate", default=contenders.ROOT / "target/release/tidegate", metavar="BINARY")
    parser.add_argument("--load", help=argparse.SUPPRESS)
    parser.add_argument("--pingora", help=argparse.SUPPRESS)
    parser.add_argument("--envoy", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=pathlib.Path, default=contenders.ROOT / "target/peers/results.json", metavar="FILE")
    parser.add_argument("--markdown", action="store_true", help="measure nothing; print the last run's tables")
    parser.add_argument("--docs", action="store_true", help="put the tables into docs/benchmarks.md, and draw its charts")
    given = parser.parse_args()
    if unknown := set(given.scenarios) - set(SCENARIOS):
        parser.error(f"no such scenario: {', '.join(unknown)}")
    given.parts = given.only.split(",") if given.only else ["cpu"] if given.guard or given.before else PARTS
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(unknown)}")
    beside_itself = given.guard or given.before
    built = contenders.ROOT / "target/pgo/tidegate"
    if given.guided is None and given.peers is None and not beside_itself and built.exists():
        given.guided = built
    given.scenarios = given.scenarios or (["h1", "tls", "h2"] if beside_itself else list(SCENARIOS))
    default = "" if beside_itself else ",".join([*contenders.PEERS, "relay"])
    given.peers = [name for name in (default if given.peers is None else given.peers).split(",") if name]
    if unknown := set(given.peers) - {*contenders.PEERS, "relay"}:
        parser.error(f"no such peer: {', '.join(unknown)}")
    return given


def choose(given):
    """Programs by name, and which of them take part; tidegate, nginx (as an origin) and our own load must."""
    programs = {
        "tidegate": contenders.find("tidegate", given.tidegate),
        "before": contenders.find("-", given.before),
        "guided": contenders.find("-", given.guided),
        "nginx": contenders.find("nginx"),
        "haproxy": contenders.find("haproxy"),
        "envoy": contenders.find("envoy", given.envoy),
        "pingora": contenders.find("-", given.pingora),
        "load": contenders.find("-", given.load),
    }
    programs["relay"] = programs["load"]
    for needed in ("tidegate", "nginx", "load", *(["before"] if given.before else [])):
        if not programs[needed]:
            sys.exit(f"benches/peers/run: {needed} isn't there")
    builds = [name for name, is_wanted in (("guided", given.guided), ("unguarded", given.guard), ("before", given.before))
              if is_wanted]
    wanted = ["tidegate", *builds, *given.peers]
    for name in wanted:
        if name != "unguarded" and not programs[name]:
            say(f"== {name}: can't be had here; it is left out")
    return programs, [name for name in contenders.NAMES if name in wanted and (name == "unguarded" or programs[name])]


def machine(programs, names):
    def version(name, *arguments):
        said = subprocess.run([programs[name], *arguments], capture_output=True, text=True)
        numbers = re.search(r"\d+\.\d+(\.\d+)?", (said.stdout + said.stderr).replace(str(programs[name]), ""))
        return numbers[0] if numbers else "?"

    asks = {"nginx": "-v", "haproxy": "-v", "envoy": "--version", "tidegate": "--version"}
    return {"cores": os.cpu_count(), "processor": platform.machine(), "kernel": platform.release(),
            "versions": {name: version(name, asks[name]) for name in names if name in asks}}


def run(bench, names, given, results):
    proxies = [name for name in names if name not in contenders.CPU_ALONE]
    if "cpu" in given.parts or "latency" in given.parts:
        processes = {}
        try:
            for name in names:
                processes[name] = contenders.start(name, bench.folder)
            measure_requests(bench, processes, given, results)
        finally:
            for process in processes.values():
                process.stop()
    if "memory" in given.parts:
        say("== memory")
        results["memory"] = {}
        for name in proxies:
            results["memory"][name] = scenarios.memory(bench, name, given.connections, given.slow_readers)
            kinds = results["memory"][name].items()
            say(f"   {name:10} " + ", ".join(f"{kind} {m['each'] / 1024:.1f} KiB each" for kind, m in kinds))
    if "scaling" in given.parts:
        say("== two workers")
        results["scaling"] = scenarios.scaling(bench, proxies, given.rounds, given.seconds)
    if "services" in given.parts:
        say(f"== {contenders.SERVICES:,} services")
        results["services"] = scenarios.services(bench, proxies, given.rounds, given.seconds)
    if "reload" in given.parts:
        say(f"== reloading {contenders.SERVICES:,} services")
        results["reload"] = scenarios.reload(bench, given.seconds)


def measure_requests(bench, processes, given, results):
    capacity = {}
    results["cpu"] = {}
    wanted = [name for name in given.scenarios if SCENARIOS[name].services == 1] if "cpu" in given.parts else []
    wanted += [name for name in ("h1", "tls", "h2") if "latency" in given.parts and name not in wanted]
    for key in wanted:
        scenario = SCENARIOS[key]
        say(f"== {scenario.title}")
        # The relay only takes part where bytes need no understanding.
        chosen = {name: process for name, process in processes.items()
                  if name != "relay" or "relay" in (scenario.contenders or [])}
        turns = scenarios.compare(bench, scenario, chosen, given.rounds, given.seconds)
        results["cpu"][key] = {"title": scenario.title, "unit": scenario.unit, "turns": turns}
        capacity[key] = {name: statistics.median(t["per_second"] for t in each) for name, each in turns.items()}
        for name, line in report.cpu_lines(turns):
            say(f"   {name:10} {line}")
    if "latency" in given.parts:
        say("== latencies")
        processes = {name: process for name, process in processes.items() if name not in contenders.CPU_ALONE}
        results["latency"] = scenarios.latencies(bench, processes, capacity, given)


if __name__ == "__main__":
    main()
