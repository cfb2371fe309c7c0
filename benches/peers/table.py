"""The tables of README.md, from the file of results; nothing in them is written by hand."""

import os
import statistics

import production
from place import ROOT

README = os.path.join(ROOT, "README.md")
BEGIN, END = "<!-- written by benches/peers -->\n", "<!-- end -->\n"
COMMAND = "python benches/peers"


def rows(head, lines):
    out = ["| " + " | ".join(head) + " |", "| " + " | ".join(["---"] * len(head)) + " |"]
    return out + ["| " + " | ".join(line) + " |" for line in lines]


def rate(runs):
    """The mean over the runs that came to their end."""
    rates = [run["samples_per_second"] for run in runs if run["samples_per_second"]]
    return f"{statistics.fmean(rates):.1f}" if rates else "does not run"


def spelled(found):
    if not found:
        return "-"
    return f"{found['ratio']:.2f} ({found['interval'][0]:.2f} to {found['interval'][1]:.2f})"


def out_of_memory(runs):
    return f"{sum(run['oom_kills'] > 0 for run in runs)} of {len(runs)}"


def against(scenario, name, other):
    runs = scenario["production"]
    if name not in runs or other not in runs:
        return None
    return production.ratio(runs[name]["runs"], runs[other]["runs"])


def tools(scenario):
    """All tools on one script."""
    runs = scenario["production"]
    lines = [["the script as it is", "-", "-", "-", "-", "same"]]
    lines[0] += [rate(runs["as it is"]["runs"]), "-", spelled(against(scenario, "as it is", "by hand"))]
    lines[0] += [out_of_memory(runs["as it is"]["runs"])]
    notes = []
    for tool in scenario["tools"]:
        name = tool["tool"]
        edited = str(tool["edited_lines"])
        line = [name, edited, f"{tool['seconds'] / 60:.1f}", str(tool["trials"])]
        if name in runs:
            batch = tool["effective_batch"]
            same = "same" if batch == scenario["batch"] else f"{scenario['batch']} -> {batch}"
            line += [f"`{tool['found']}`", same, rate(runs[name]["runs"])]
            line += [spelled(against(scenario, name, "as it is"))]
            line += ["-" if name == "by hand" else spelled(against(scenario, name, "by hand"))]
            line += [out_of_memory(runs[name]["runs"])]
        else:
            line += ["nothing", "-", "-", "-", "-", "-"]
        if tool["note"]:
            notes.append(tool["note"])
            line[0] += f" [{len(notes)}]"
        lines.append(line)
    head = ["tool", "lines edited", "minutes", "trials", "found", "effective batch", "samples/s"]
    head += ["over the script as it is", "over doubling by hand", "out of memory in production"]
    table = rows(head, lines)
    return [*table, "", *[f"[{i}] {note}" + "  " for i, note in enumerate(notes, 1)]]


def summary(body):
    """In the columns of DeepSpeed's own table, all scripts."""
    lines, over_defaults, over_hand = [], [], []
    for name, scenario in body["scenarios"].items():
        runs = scenario["production"]
        ours = next(tool for tool in scenario["tools"] if tool["tool"] == "autofit")
        defaults, hand = against(scenario, "autofit", "as it is"), against(scenario, "autofit", "by hand")
        over_defaults += [defaults] if defaults else []
        over_hand += [hand] if hand else []
        three = ("as it is", "by hand", "autofit")
        columns = [rate(runs[one]["runs"]) if one in runs else "-" for one in three]
        line = [f"`{name}`", *columns, spelled(defaults), spelled(hand)]
        lines.append([*line, f"{ours['seconds'] / 60:.1f}", str(ours["trials"])])
    head = ["script and limit", "vanilla", "hand-doubled", "tuned by autofit", "over vanilla"]
    out = rows([*head, "over hand-doubled", "minutes", "trials"], lines)
    for what, ratios in (("the script's defaults", over_defaults), ("doubling by hand", over_hand)):
        if ratios:
            mean = production.geometric_mean(ratios)
            out += [
                "",
                f"Geometric mean over {what} ({mean['scripts']} of {len(lines)} rows): {spelled(mean)}.",
            ]
    return out


def render(body):
    out = []
    for scenario in body["scenarios"].values():
        if any(tool["tool"] not in ("by hand", "autofit") for tool in scenario["tools"]):
            title = f"`{scenario['script']}.py` under a limit of {scenario['cap']}:"
            out += [title, "", *tools(scenario), ""]
    out += ["In the columns of DeepSpeed's own table (samples/s):", "", *summary(body), ""]
    machines = {}
    for name, scenario in body["scenarios"].items():
        machine = scenario["machine"]
        packages = ", ".join(f"{k} {v}" for k, v in machine["packages"].items())
        words = f"{machine['cores']} cores of an {machine['cpu']}, Python {machine['python']}, {packages}"
        machines.setdefault(words, []).append(name)
    for words, names in machines.items():
        out.append(f"{', '.join(f'`{n}`' for n in names)}: {words}.")
    again = f"`{COMMAND}` measures it again ([benches/README.md](benches/README.md#other-tools));"
    out += ["", again, "all runs: [benches/results/peers.json](benches/results/peers.json)."]
    return "\n".join(out) + "\n"


def readme(body):
    """README.md as it is, and as it should be."""
    with open(README, encoding="utf-8") as file:
        text = file.read()
    head, rest = text.split(BEGIN)
    _, tail = rest.split(END, 1)
    return text, head + BEGIN + (render(body) if body else "") + END + tail
