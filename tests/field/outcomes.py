"""What the field test says of a script: a row of the table, and whether anything was wrong."""

import re

HEAD = """# Outcomes of the field test

Written by `run.py --write`; not edited by hand. What the columns mean is in [README.md](README.md).

{scripts} commands of {repositories} repositories, {wrong} with something wrong.

| script | kinds | inspect | tune | winner | harm | run / bare | date |
| --- | --- | --- | --- | --- | --- | --- | --- |
"""

TRAINING_ENDS = (0, 3)  # of tune: a result, or nothing fits


def wrong(outcome, script):
    """Sentences about what must not be."""
    found = []
    expected = script.get("expect", {})
    if outcome["inspect"]["status"] != expected.get("inspect", 0):
        found.append(f"inspect ended with {outcome['inspect']['status']}")
    if outcome["tune"]["status"] != expected.get("tune", 0):
        found.append(f"tune ended with {outcome['tune']['status']}")
    found += [f"{name} hung" for name in ("inspect", "tune") if outcome[name]["hung"]]
    found += [f"the tree changed: {change}" for change in outcome["changed"]]
    found += [f"left behind: {process}" for process in outcome["left"]]
    if outcome["run"] is not None and _end(outcome["run"]) != _end(outcome["bare"]):
        found.append(f"run ended with {_end(outcome['run'])}, the bare script with {_end(outcome['bare'])}")
    result = outcome["tune"].get("document") or {}
    found += [
        f"trial {trial['trial']} {trial['verdict']}: {trial['why']}"
        for trial in result.get("trials", [])
        if trial["verdict"] in ("failed", "not_applied", "agent_missing", "timeout", "diverged")
        and not _foreseen(trial, script)
    ]
    inspection = outcome["inspect"].get("document") or {}
    detected = inspection.get("detected") or {}
    for name, value in expected.get("detected", {}).items():
        if detected.get(name) != value:
            found.append(f"detected {name} is {detected.get(name)}, not {value}")
    sites = {site["knob"]: site for site in inspection.get("knobs", [])}
    for name, words in expected.get("refused", {}).items():
        why = (sites.get(name) or {}).get("why_not") or ""
        if words not in why:
            found.append(f"{name}: refused because of {why!r}, not {words!r}")
    return found


def _foreseen(trial, script):
    return any(words in trial["why"] for words in script.get("foreseen", []))


def _end(run):
    return "still training" if run["stopped"] else run["status"]


def row(outcome):
    """One line of the table."""
    script = outcome["script"]
    detected = (outcome["inspect"].get("document") or {}).get("detected") or {}
    seen = [f"status {outcome['inspect']['status']}"]
    if detected:
        seen.append(f"{detected['samples_per_step']} samples a step ({detected['samples_from']})")
        seen += [word for word in ("amp", "distributed") if detected.get(word)]
        seen += [word.replace("_", " ") for word in FLAGS if detected.get(word)]
        if detected.get("accumulation", 0) > 1:
            seen.append(f"{detected['accumulation']} backwards a step")
    result = outcome["tune"].get("document") or {}
    winner = result.get("winner")
    settings = ", ".join(f"{k}={v}" for k, v in winner["settings"].items()) if winner else ""
    verdicts = [trial["verdict"] for trial in result.get("trials", [])]
    counted = ", ".join(f"{verdicts.count(v)} {v}" for v in dict.fromkeys(verdicts))
    harm = "; ".join(outcome["changed"] + outcome["left"]) or "none"
    run = "not run" if outcome["run"] is None else _end(outcome["run"])
    cells = [
        f"{script['repository']} `{script['name']}`",
        ", ".join(script["kinds"]),
        "; ".join(seen),
        f"status {outcome['tune']['status']}: {counted}",
        settings or ("the script as it is" if winner else "none"),
        harm,
        f"{run} / {_end(outcome['bare'])}",
        outcome["date"],
    ]
    return "| " + " | ".join(str(cell).replace("|", "/") for cell in cells) + " |"


FLAGS = ("compile", "checkpointing", "grad_scaler", "double_backward")


def document(found):
    """The whole of outcomes.md."""
    text = HEAD.format(
        scripts=len(found),
        repositories=len({outcome["script"]["repository"] for outcome in found}),
        wrong=sum(bool(outcome["wrong"]) for outcome in found) or "none",
    )
    text += "".join(row(outcome) + "\n" for outcome in found)
    text += "\n## In detail\n\nWhat each script's inspection said of each knob, and how its search went.\n"
    for outcome in found:
        script = outcome["script"]
        text += f"\n### {script['repository']} `{script['name']}`\n\n"
        text += f"`{script['command']}` at `{script['commit'][:12]}`\n\n"
        for site in (outcome["inspect"].get("document") or {}).get("knobs", []):
            if site["why_not"]:
                text += f"- {site['knob']}: refused: {site['why_not']}\n"
            else:
                text += f"- {site['knob']}: {site['way']}: {site['how']}\n"
        result = outcome["tune"].get("document") or {}
        if result:
            text += f"\nThe search: {result['reason']}.\n\n"
            text += "".join(f"- {line}\n" for line in _launches(result) + result["notes"])
        if outcome["wrong"]:
            text += "\n" + "".join(f"- **wrong**: {sentence}\n" for sentence in outcome["wrong"])
    return without_paths(text)


def _launches(result):
    """One line a trial."""
    lines = []
    for trial in result["trials"]:
        settings = ", ".join(f"{k}={v}" for k, v in trial["settings"].items()) or "as it is"
        lines.append(
            f"trial {trial['trial']} ({trial['purpose']}), {settings}: {trial['verdict']}: {trial['why']}"
        )
    return lines


def without_paths(text):
    """Absolute paths are those of one machine: only their last part is told.  Addresses and /dev, /proc stay."""
    return re.sub(r"(?<![\w.:/~-])/(?!dev/|proc/)(?:[\w.+@-]+/)+([\w.+@-]+)", r"\1", text)
