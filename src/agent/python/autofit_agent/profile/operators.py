"""The operators of a step, by their own time and memory."""

TOP = 15  # operators of each table
NAME = 120  # characters of an operator's name


def tables(profiler, device):
    """(by time, by memory), most first."""
    rows = [row for row in profiler.key_averages() if not row.key.startswith(("[", "ProfilerStep"))]
    return table(rows, device, "time"), table(rows, device, "memory")


def table(rows, device, what):
    """The operators with the most time, or memory, of their own."""
    names = {
        ("cpu", "time"): "self_cpu_time_total",
        ("cuda", "time"): "self_device_time_total",
        ("cpu", "memory"): "self_cpu_memory_usage",
        ("cuda", "memory"): "self_device_memory_usage",
    }
    name = names[device, what]
    if rows and not hasattr(rows[0], name):
        name = name.replace("device", "cuda")  # before torch 2.4
    values = sorted(((getattr(row, name), row) for row in rows), key=lambda pair: -pair[0])
    total = sum(value for value, _ in values if value > 0)
    unit = 1e6 if what == "time" else 1
    return [
        {
            "operator": row.key[:NAME],
            "calls": row.count,
            "value": value / unit,
            "share": value / total,
        }
        for value, row in values[:TOP]
        if value > 0
    ]
