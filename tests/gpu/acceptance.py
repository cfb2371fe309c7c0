"""The checks of acceptance.sh.

Each compares what autofit says with what NVML and the allocator say to somebody else.  Every check is written
to the JSON file as soon as it is known, so that a run that is cut short leaves what it saw.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback

import device as gpu
import knobs
import memory_parts
from bench import MIB, Bench, Evidence

# The limit on the allocator is corrected once the context is measured: the peak may pass the cap by this.
CAP_SLACK = 96 * MIB
# Two launches of one configuration differ by allocator rounding and library workspaces.
PEAK_TOLERANCE = 0.10

DEVICE = "cuda"
# Sized so that the baseline takes some GiB on the device and a step some tens of milliseconds.
EXAMPLES = {
    "gpt": "--steps 80 --batch-size 64 --block-size 256 --n-layer 8 --n-head 8 --n-embd 512"
    " --eval-every 40 --eval-iters 2",
    "cnn": "--batch-size 512 --width 64 --image-size 64 --train-samples 6144 --val-samples 512",
    "text_classifier": "--batch-size 256 --width 256 --layers 6 --heads 8 --longest 384"
    " --train-samples 7680 --val-samples 512",
    "gan": "--batch-size 512 --width 96 --train-samples 7680 --epochs 3",
}
# Of the probe's peak beyond the context: what the cap leaves.
CAP_SHARE = {"gpt": 0.65, "cnn": 0.7, "text_classifier": 0.65, "gan": 0.75}


ASK = """
import json, sys, torch
if not torch.cuda.is_available():
    sys.exit(3)
p = torch.cuda.get_device_properties(0)
print(json.dumps({"python": sys.version.split()[0], "torch": torch.__version__, "cuda": torch.version.cuda,
    "cudnn": torch.backends.cudnn.version(), "gpu": p.name, "gpu_total_bytes": p.total_memory,
    "gpus": torch.cuda.device_count(), "uuid": str(p.uuid)}))
"""


def ask_torch():
    """Versions and the GPU's UUID, by a process of its own: a context here would be in every figure."""
    asked = subprocess.run(
        [sys.executable, "-c", ASK], stdout=subprocess.PIPE, text=True, timeout=120, check=False
    )
    return json.loads(asked.stdout) if asked.returncode == 0 else None


def autofit_version(program):
    return subprocess.run(
        [program, "--version"], stdout=subprocess.PIPE, text=True, timeout=20, check=True
    ).stdout


def allocator_against_nvml(bench):
    """2 GiB by the allocator, seen by NVML and, where the driver tells processes apart, under our PID."""
    code = (
        "import torch, os, json, sys\n"
        "x = torch.empty(2 << 30, dtype=torch.uint8, device='cuda').fill_(1)\n"
        "torch.cuda.synchronize()\n"
        "print(json.dumps({'pid': os.getpid(), 'reserved': torch.cuda.memory_reserved()}), flush=True)\n"
        "sys.stdin.read()\n"
    )
    before = bench.device.used()
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=bench.environment(),
    )
    try:
        told = json.loads(process.stdout.readline())
        used, rows = bench.device.used() - before, bench.device.processes()
    finally:
        process.stdin.close()
        process.wait(30)
    mine = (rows or {}).get(told["pid"])
    context = used - told["reserved"]
    bench.evidence.check(
        "device memory by NVML = allocator + a context",
        64 * MIB < context < 2048 * MIB,
        reserved=told["reserved"],
        nvml_over_baseline=used,
        context=context,
    )
    # Containers and MIG may hide PIDs; then autofit falls back, and this says so.
    agrees = mine is None or abs(mine - used) < 128 * MIB
    bench.evidence.check(
        "NVML's figure of the process agrees, where there is one",
        agrees,
        nvml_process=mine,
        pid_seen=mine is not None,
    )


def diagnose_real_oom(bench):
    """A real CUDA OOM, without autofit near it, read by `autofit diagnose`."""
    total = bench.device.memory()["total"]
    run = bench.probe("gpt", EXAMPLES["gpt"].split(), fraction=1.5 * (1 << 30) / total)
    text = os.path.join(bench.work, "oom.txt")
    with open(text, "w", encoding="utf-8") as file:
        file.write(run["text"])
    status, out, err, _, _ = bench.autofit(["diagnose", text, "--json"], 20)
    try:
        said = json.loads(out)
    except ValueError:
        said = {"kind": None, "stderr": err[-300:]}
    bench.evidence.check(
        "a real CUDA OOM is read as gpu_oom",
        run["status"] not in (0, None) and said.get("kind") == "gpu_oom",
        script_status=run["status"],
        diagnose_status=status,
        kind=said.get("kind"),
        fields=said.get("fields"),
        message=next((r for r in run["text"].splitlines() if "out of memory" in r.lower()), None),
    )


def tune(bench, name, cap, seconds, *more):
    out = os.path.join(bench.work, "out-" + name)
    words = [
        "tune",
        "--device",
        DEVICE,
        "--json",
        "--out",
        out,
        "--budget",
        f"{int(seconds * 0.7)}s",
        "--fresh",
        "-q",
    ]
    words += ["--memory-cap", str(cap)] if cap else []
    words += [*more, "--", sys.executable, name + ".py", *EXAMPLES[name].split()]
    status, text, err, peak, took = bench.autofit(words, seconds)
    try:
        result = json.loads(text)
    except ValueError:
        result = None
    return {
        "status": status,
        "result": result,
        "nvml_peak": peak,
        "seconds": took,
        "err": err[-1500:],
        "out": out,
    }


def uncapped_peak(bench, probe):
    """Autofit's peak of the baseline against NVML's from outside and a run without autofit."""
    before = bench.tree()
    run = tune(bench, "gpt", None, 60, "--max-trials", "1")
    trials = (run["result"] or {}).get("trials") or [{}]
    peak = (trials[0].get("measured") or {}).get("peak_device_bytes")
    near = bool(peak) and abs(peak - run["nvml_peak"]) <= PEAK_TOLERANCE * run["nvml_peak"]
    bench.evidence.check(
        "gpt: the baseline's peak is NVML's",
        near,
        autofit_peak=peak,
        nvml_peak=run["nvml_peak"],
        probe_nvml_peak=probe["nvml_peak"],
        probe_reserved=probe.get("reserved"),
        status=run["status"],
        verdict=trials[0].get("verdict"),
        seconds=run["seconds"],
        err=None if peak else run["err"],
    )
    bench.leaves_nothing("gpt without a cap", before)


def example(bench, name, seconds, run_seconds):
    """One example: a probe, a cap below its need, a search under it, production under it."""
    evidence, check = bench.evidence, bench.evidence.check
    probe = bench.probe(name, EXAMPLES[name].split())
    row = evidence.body["examples"][name] = {"arguments": EXAMPLES[name], "probe": probe}
    context = probe["nvml_peak"] - probe.get("reserved", 0)
    fine = probe["status"] == 0 and probe.get("reserved", 0) > 0
    if not check(
        f"{name}: runs on cuda without autofit", fine, status=probe["status"], seconds=probe["seconds"]
    ):
        return None
    probe.pop("text", None)
    if name == "gpt" and evidence.left() > 60:
        uncapped_peak(bench, probe)
    cap = int(context + CAP_SHARE[name] * probe["allocated"])
    before = bench.tree()
    run = tune(bench, name, cap, seconds)
    result = run["result"] or {}
    row.update(
        cap=cap,
        context=context,
        tune_status=run["status"],
        seconds=run["seconds"],
        result=result or run["err"],
    )
    trials, confirmed, winner = (
        result.get("trials") or [],
        result.get("confirmed") or {},
        result.get("winner") or {},
    )
    first = trials[0] if trials else {}
    oom = first.get("oom") or {}
    check(
        f"{name}: the baseline does not fit under the cap, and is said to be out of device memory",
        first.get("verdict") == "oom" and oom.get("kind") in ("gpu_oom", "gpu_oom_library"),
        cap=cap,
        verdict=first.get("verdict"),
        kind=oom.get("kind"),
        requested=oom.get("requested_bytes"),
    )
    memory_parts.told_at_oom(bench, name, run)
    check(
        f"{name}: a configuration fits and is confirmed",
        run["status"] == 0 and bool(confirmed),
        status=run["status"],
        settings=winner.get("settings"),
        trials=len(trials),
        samples_per_second=(winner.get("samples_per_second") or {}).get("value"),
    )
    peaks = [
        ((t.get("measured") or {}).get("peak_device_bytes")) for t in trials if t.get("verdict") == "fit"
    ]
    check(
        f"{name}: what fits has a peak within the cap",
        bool(peaks) and all(p is not None and p <= cap for p in peaks),
        cap=cap,
        peaks=peaks,
        confirmed_peak=confirmed.get("peak_bytes"),
    )
    check(
        f"{name}: NVML never saw more than the cap",
        0 < run["nvml_peak"] <= cap + CAP_SLACK,
        cap=cap,
        nvml_peak=run["nvml_peak"],
    )
    bench.leaves_nothing(name, before)
    if confirmed and evidence.left() > 20:
        production(bench, name, run, cap, confirmed=confirmed.get("peak_bytes") or 0, seconds=run_seconds)
    elif confirmed:
        evidence.body["not_run"].append(f"{name}: autofit run")
    return run


def production(bench, name, tuned, cap, *, confirmed, seconds):
    env = os.path.join(tuned["out"], "autofit.env")
    words = [
        "run",
        "--env",
        env,
        "--memory-cap",
        str(cap),
        "--",
        sys.executable,
        name + ".py",
        *EXAMPLES[name].split(),
    ]
    status, out, err, peak, took = bench.autofit(words, seconds)
    text = out + err
    soft = [r for r in text.splitlines() if "out of memory" in r.lower()]
    bench.evidence.check(
        f"{name}: autofit run trains to the end under the cap",
        status == 0 and not soft and peak <= cap + CAP_SLACK,
        status=status,
        nvml_peak=peak,
        cap=cap,
        seconds=took,
        oom_lines=soft[:2],
        tail=text[-300:] if status else None,
    )
    # Production may go past what the confirm trial saw (other phases), never far: the confirm is a proof.
    near = confirmed > 0 and peak <= confirmed * (1 + PEAK_TOLERANCE)
    bench.evidence.check(
        f"{name}: production's peak is what was confirmed", near, nvml_peak=peak, confirmed_peak=confirmed
    )
    as_before(bench)
    bench.device.settle(bench.baseline)


def as_before(bench):
    """Takes away what a run without a sandbox has written."""
    shutil.rmtree(bench.scripts)
    shutil.copytree(os.path.join(bench.work, "pristine"), bench.scripts)


def under_agent(bench, name, settings, seconds):
    folder = tempfile.mkdtemp(prefix="launch-", dir=bench.work)
    argv = [sys.executable, name + ".py", *EXAMPLES[name].split()]
    found = knobs.launch(bench.call, folder, argv, settings, DEVICE, seconds)
    as_before(bench)  # no sandbox is around it
    return found


def knobs_in_one_process(bench, plain, launch):
    """Several knobs that only a GPU can show, read back in one launch.

    `plain`: what each example does under the agent without settings, once it was needed.
    """
    title, name, settings, seconds, close, lower = launch
    before = bench.tree()
    if name not in plain:
        plain[name] = under_agent(bench, name, {}, 30)
    found = under_agent(bench, name, settings, seconds)
    for what, holds, numbers in knobs.judge(plain[name], found, settings, close, lower):
        bench.evidence.check(f"{title}: {what}", holds, **numbers)
    bench.leaves_nothing(title, before)


# Through the launcher too: a knob of the agent and one of the environment, each beside the script as it is.
TRIED = ["amp=fp16", "allocator=expandable_segments:True"]


def knob(bench, settings):
    """One configuration beside the script as it is: in force, losses alike, a lower peak where it must."""
    before = bench.tree()
    out = os.path.join(bench.work, "out-try")
    words = ["try", "--device", DEVICE, "--json", "-q", "--fresh", "--out", out]
    status, text, err, _, took = bench.autofit(
        [*words, "--set", settings, "--", sys.executable, "gpt.py", *EXAMPLES["gpt"].split()], 60
    )
    try:
        trials = json.loads(text)["trials"]
    except (ValueError, KeyError):
        trials = []
    peaks = [(t.get("measured") or {}).get("peak_device_bytes") for t in trials]
    bench.evidence.check(
        f"{settings}: in force, and trains as the script does",
        status == 0 and len(trials) == 2 and trials[1]["verdict"] in ("fit", "disturbed"),
        status=status,
        verdicts=[t.get("verdict") for t in trials],
        peaks=peaks,
        seconds=took,
        err=err[-600:] if status else None,
    )
    bench.leaves_nothing(settings, before)


def start_search(bench, name):
    out = os.path.join(bench.work, "out-" + name)
    words = [
        bench.bin,
        "tune",
        "--device",
        DEVICE,
        "--fresh",
        "-q",
        "--out",
        out,
        "--",
        sys.executable,
        "gpt.py",
    ]
    return subprocess.Popen(
        words + EXAMPLES["gpt"].split(),
        cwd=bench.scripts,
        env=bench.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def two_searches_and_an_interrupt(bench):
    """A second search on the GPU is refused; two Ctrl-C end the first and leave nothing."""
    before = bench.tree()
    first = start_search(bench, "first")
    try:
        deadline = time.monotonic() + 40
        while bench.device.used() - bench.baseline < 700 * MIB and time.monotonic() < deadline:
            time.sleep(0.1)
        second = start_search(bench, "second")
        try:
            _, said = second.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            second.kill()
            _, said = second.communicate()
        bench.evidence.check(
            "a second search on the GPU is refused",
            second.returncode == 6 and "another search" in said,
            status=second.returncode,
            said=said.strip()[-200:],
        )
        first.send_signal(signal.SIGINT)
        time.sleep(0.5)
        first.send_signal(signal.SIGINT)
        status = first.wait(20)
        bench.evidence.check("two Ctrl-C end a search with status 130", status == 130, status=status)
    finally:
        if first.poll() is None:
            first.kill()
            first.wait()
    bench.leaves_nothing("an interrupted search", before)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--bin", "--examples", "--out"):
        parser.add_argument(name, required=True)
    parser.add_argument("--seconds", type=float, default=440)
    args = parser.parse_args()
    args.bin, args.out = os.path.abspath(args.bin), os.path.abspath(args.out)
    versions = ask_torch()
    if versions is None:
        print("acceptance: no CUDA device", file=sys.stderr)
        return 3
    evidence = Evidence(args.out, args.seconds)
    bench = Bench(args, evidence, gpu.Device(versions.pop("uuid")))
    shutil.copytree(bench.scripts, os.path.join(bench.work, "pristine"))
    versions.update(autofit=autofit_version(args.bin).strip(), driver=bench.device.driver())
    evidence.body.update(machine=gpu.machine(), versions=versions, device_baseline_bytes=bench.baseline)
    evidence.write()
    plain = {}
    steps = [
        ("allocator against NVML", 20, lambda: allocator_against_nvml(bench)),
        ("a real OOM", 25, lambda: diagnose_real_oom(bench)),
        ("gpt", 60, lambda: example(bench, "gpt", 90, 40)),
        ("profile", 40, lambda: memory_parts.profiled(bench, "gpt", EXAMPLES["gpt"].split())),
        ("two searches", 45, lambda: two_searches_and_an_interrupt(bench)),
        ("cnn", 50, lambda: example(bench, "cnn", 60, 30)),
        *(
            (launch[0], launch[3], lambda launch=launch: knobs_in_one_process(bench, plain, launch))
            for launch in knobs.LAUNCHES
        ),
        ("text_classifier", 50, lambda: example(bench, "text_classifier", 60, 30)),
        ("gan", 50, lambda: example(bench, "gan", 60, 30)),
        *((settings, 40, lambda s=settings: knob(bench, s)) for settings in TRIED),
    ]
    for name, needs, step in steps:
        if evidence.left() < needs:
            evidence.body["not_run"].append(name)
            continue
        try:
            step()
        except Exception as e:  # a check that breaks must not hide the others
            evidence.check(
                f"{name}: the check itself ran", False, error=repr(e), trace=traceback.format_exc()[-1500:]
            )
    evidence.body["complete"] = True
    evidence.write()
    shutil.rmtree(bench.work, ignore_errors=True)
    body = evidence.body
    print(
        f"{body['result']}: {len(body['checks'])} checks, failed {body['failed']}, not run {body['not_run']}"
    )
    print(args.out)
    return 0 if body["result"] == "pass" else 1


if __name__ == "__main__":
    sys.exit(main())
