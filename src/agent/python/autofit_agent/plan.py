"""What the launcher asks for: `plan.json` in a trial and while watching, `AUTOFIT_CONFIG` in production.

The document is that of src/model/plan.rs.
"""

import os

from . import VERSION


class PlanError(Exception):
    """The plan is absent, unreadable or of another version; the text is for people."""


class Schedule:
    """When a trial has measured enough (units: optimizer steps, seconds)."""

    def __init__(self, fields):
        self.warmup_steps = int(fields.get("warmup_steps", 2))
        self.min_steps = int(fields.get("min_steps", 5))
        self.max_steps = int(fields.get("max_steps", 50))
        self.max_seconds = float(fields.get("max_seconds", 10.0))
        self.relative_error = float(fields.get("relative_error", 0.02))


class Coverage:
    """How a confirm trial reaches what lies beyond the first steps."""

    def __init__(self, fields):
        self.end_loader_after = int(fields["end_loader_after"])
        self.look_batches = int(fields.get("look_batches", 0))
        self.look_seconds = float(fields.get("look_seconds", 10.0))
        self.phase_seconds = float(fields.get("phase_seconds", 60.0))


class Plan:
    """The document; fields have the names of src/model/plan.rs, unknown ones are ignored."""

    def __init__(self, fields):
        version = fields.get("version")
        if version != VERSION:
            raise PlanError(f"the plan has version {version}, this agent reads version {VERSION}")
        self.mode = fields["mode"]
        self.nonce = fields.get("nonce", "")
        self.trial_dir = fields.get("trial_dir")
        self.argv = list(fields.get("argv") or [])
        self.device = fields.get("device", "cpu")
        self.settings = dict(fields.get("settings") or {})
        self.ways = dict(fields.get("ways") or {})
        # Options of the script that the launcher has set: {knob: [{dest, value}]}, to be read back.
        self.options = dict(fields.get("options") or {})
        # Backward calls for each step of the script as it is.
        self.script_accumulation = max(int(fields.get("script_accumulation") or 1), 1)
        # Processes that the command starts by itself.
        self.script_ranks = max(int(fields.get("script_ranks") or 1), 1)
        # Configurations that are measured in turns with `settings`, each in full.
        self.windows = [dict(settings) for settings in fields.get("windows") or []]
        self.schedule = Schedule(fields.get("schedule") or {})
        self.coverage = Coverage(fields["coverage"]) if fields.get("coverage") else None
        self.inspect = bool(fields.get("inspect"))
        self.cap_bytes = fields.get("cap_bytes")
        self.parity_steps = int(fields.get("parity_steps") or 0)
        self.serves = bool(fields.get("serves"))
        self.quiet = bool(fields.get("quiet"))
        self.profile = bool(fields.get("profile"))
        self.several_machines = bool(fields.get("several_machines"))
        self.seed = fields.get("seed")
        self.training_loader = fields.get("training_loader")
        self.required = list(fields.get("required") or [])
        # Production only: what the confirm trial measured (samples_per_second, peak_bytes, ...).
        self.confirmed = dict(fields.get("confirmed") or {})


def load(mode):
    """The plan for this mode, from the environment."""
    try:
        if mode == "run":
            fields = _decode(os.environ["AUTOFIT_CONFIG"])
        else:
            with open(os.environ["AUTOFIT_PLAN"], encoding="utf-8") as file:
                fields = read_json(file.read())
        plan = Plan(fields)
    except PlanError:
        raise
    except KeyError as error:
        raise PlanError(f"{error.args[0]} is missing") from error
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise PlanError(f"the plan could not be read: {error}") from error
    if plan.mode != mode:
        raise PlanError(f"AUTOFIT_MODE is {mode}, but the plan is for {plan.mode}")
    if mode != "run" and not plan.trial_dir:
        raise PlanError("trial_dir is missing")
    return plan


def _decode(text):
    import binascii

    text = text.strip().rstrip("=").replace("-", "+").replace("_", "/")
    raw = binascii.a2b_base64(text + "=" * (-len(text) % 4))
    return read_json(raw.decode("utf-8"))


class _Scanning:
    """What the scanner in C asks for; the defaults of `json.loads`."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float
    memo = {}


def read_json(text):
    """`json.loads` without its imports, which most processes need for nothing else."""
    try:
        from _json import make_scanner

        text = text.strip()
        value, end = make_scanner(_Scanning())(text, 0)
        if end == len(text):
            return value
    except (ImportError, TypeError, AttributeError, StopIteration):
        pass
    import json

    return json.loads(text)
