#!/usr/bin/env python3
"""Measures how long a server takes from its start until it is ready, and the memory it has then.

    python3 scripts/bench/start.py --runs 9 'build/prefixd --model MODEL --listen 127.0.0.1:{port}' \\
            [--against 'llama-server -m MODEL --port {port}' --against-path /health]

{port} becomes a free port. Ready is the first answer of 200 to GET /ready (--path), asked for every
millisecond. With --against, both commands take turns, because a busy machine changes from one
minute to the next; beside the time stands the processor time of all threads and processes up to
then, which changes less, in steps of 10 ms. Files should be in the page cache: the first run of
each command is not counted.

Memory is of all processes together, in MiB: "shared" counts a page of several processes once
(Pss of files and shared memory), "own" is what each has for itself (Pss of the rest). The last
line is JSON.
"""

import argparse
import http.client
import json
import os
import shlex
import signal
import socket
import statistics
import subprocess
import sys
import time

TICK = os.sysconf("SC_CLK_TCK")
DEADLINE_S = 120


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def is_ready(port, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def family(pid):
    """A process and all its descendants."""
    found = [pid]
    for parent in found:
        try:
            with open(f"/proc/{parent}/task/{parent}/children") as f:
                found += [int(child) for child in f.read().split()]
        except OSError:
            pass
    return found


def cpu_seconds(pids):
    ticks = 0
    for pid in pids:
        with open(f"/proc/{pid}/stat") as f:
            ticks += sum(int(x) for x in f.read().rpartition(")")[2].split()[11:13])
    return ticks / TICK


def memory(pids):
    """MiB that all processes have together: shared ones, own ones, and the highest of one."""
    kib = {"Pss": 0, "Pss_Anon": 0}
    peak = 0
    for pid in pids:
        with open(f"/proc/{pid}/smaps_rollup") as f:
            for line in f.read().splitlines()[1:]:
                name, value = line.split(":")
                if name in kib:
                    kib[name] += int(value.split()[0])
        with open(f"/proc/{pid}/status") as f:
            rows = dict(line.split(":", 1) for line in f.read().splitlines())
        peak = max(peak, int(rows["VmHWM"].split()[0]))
    return {"shared": (kib["Pss"] - kib["Pss_Anon"]) / 1024, "own": kib["Pss_Anon"] / 1024,
            "peak": peak / 1024}


def stop(process):
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def start_once(command, path):
    port = free_port()
    words = shlex.split(command.replace("{port}", str(port)))
    begin = time.perf_counter()
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not is_ready(port, path):
            if process.poll() is not None:
                sys.exit(f"start.py: {words[0]} ended with status {process.returncode}")
            if time.perf_counter() - begin > DEADLINE_S:
                sys.exit(f"start.py: {words[0]} is not ready after {DEADLINE_S} s")
            time.sleep(0.001)
        seconds = time.perf_counter() - begin
        pids = family(process.pid)
        return {"ready_s": seconds, "cpu_s": cpu_seconds(pids), **memory(pids)}
    finally:
        stop(process)


def summary(runs):
    """Lowest and median of the times, medians of the rest."""
    out = {key: round(statistics.median(r[key] for r in runs), 3) for key in runs[0]}
    out["best_s"] = round(min(r["ready_s"] for r in runs), 3)
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", help="with {port} where the port belongs")
    parser.add_argument("--path", default="/ready")
    parser.add_argument("--against", metavar="COMMAND")
    parser.add_argument("--against-path", default="/health")
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    sides = [(args.command, args.path)]
    if args.against:
        sides.append((args.against, args.against_path))
    results = [[] for _ in sides]
    for run in range(args.runs + 1):
        for i, side in enumerate(sides):
            one = start_once(*side)
            if run:
                results[i].append(one)
                print(f"{'AB'[i]}: ready {one['ready_s']:.3f} s, processor {one['cpu_s']:.2f} s, "
                      f"shared {one['shared']:.0f}, own {one['own']:.0f}, "
                      f"peak of a process {one['peak']:.0f} MiB", flush=True)
    report = {"AB"[i]: summary(runs) for i, runs in enumerate(results)}
    if args.against:
        report["A/B"] = round(report["A"]["ready_s"] / report["B"]["ready_s"], 3)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
