// Draws the charts of a report from the figures in it, with uPlot, and lets keys and pointer go through their points.
(() => {
  "use strict";
  const data = JSON.parse(document.getElementById("figures").textContent);
  const spoken = document.getElementById("spoken");
  const MIB = 2 ** 20;
  const GIB = 2 ** 30;
  let plots = [];

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
  const font = (size) => size + "px " + getComputedStyle(document.body).fontFamily;

  // As the tables write it.
  function bytes(n) {
    for (const [unit, size] of [["TiB", GIB * 1024], ["GiB", GIB], ["MiB", MIB], ["KiB", 1024]]) {
      if (n >= size) {
        const x = n / size;
        return x.toFixed(x >= 100 ? 0 : x >= 10 ? 1 : 2) + " " + unit;
      }
    }
    return n + " B";
  }
  // One unit along an axis.
  function byteTicks(_, splits) {
    const [unit, size] = Math.max(...splits) >= GIB ? ["GiB", GIB] : ["MiB", MIB];
    return splits.map((n) => (n === 0 ? "0" : Number((n / size).toFixed(3)) + " " + unit));
  }
  const seconds = (s) => (s < 9.95 ? s.toFixed(1) : s.toFixed(0)) + " s";
  const plain = (x) => String(Number(x.toPrecision(4)));
  const BYTE_STEPS = Array.from({ length: 32 }, (_, i) => MIB * 2 ** i);

  function axis(more) {
    return {
      stroke: colour("soft"), font: font(12), labelFont: font(12), labelSize: 20, gap: 6,
      grid: { stroke: colour("grid"), width: 1 }, ticks: { show: false }, ...more,
    };
  }

  // One chart: a box that follows the width of its place, a tip beside the point in question, and keys.
  // `points(u)` gives [{left, top, head, lines}] in the order of the keys, in pixels of the plotting area.
  function chart(place, options, columns, points) {
    const tip = document.createElement("div");
    tip.className = "tip";
    tip.hidden = true;
    const size = () => ({ width: Math.max(place.clientWidth, 200), height: place.clientHeight });
    let at = -1;
    // Where points lie is only known once they are drawn, and is another after each drawing.
    let shown = [];
    const u = new uPlot({
      legend: { show: false }, padding: [22, 14, 0, 0], ...size(), ...options,
      cursor: { drag: { x: false, y: false }, points: { show: false }, ...options.cursor },
      hooks: { draw: [...(options.draw ? [options.draw] : []), (drawn) => { shown = points(drawn); }] },
    }, columns, place);
    u.over.append(tip);

    function show(i, speak) {
      const p = shown[i];
      if (!p) return;
      at = i;
      tip.replaceChildren();
      const head = document.createElement("b");
      head.textContent = p.head;
      tip.append(head, ...p.lines.map((line) => Object.assign(document.createElement("span"), { textContent: line })));
      tip.hidden = false;
      const width = u.over.clientWidth;
      const right = p.left + 14 + tip.offsetWidth > width;
      const left = right ? p.left - 14 - tip.offsetWidth : p.left + 14;
      tip.style.left = Math.max(0, Math.min(left, width - tip.offsetWidth)) + "px";
      tip.style.top = Math.max(-6, Math.min(p.top - tip.offsetHeight / 2, u.over.clientHeight - tip.offsetHeight)) + "px";
      if (speak) {
        u.setCursor({ left: p.left, top: p.top }, false);
        spoken.textContent = [p.head, ...p.lines].join(", ");
      }
    }
    function hide() {
      tip.hidden = true;
      at = -1;
      u.setCursor({ left: -10, top: -10 }, false);
    }
    function nearest(x, y, along) {
      let best = -1;
      let distance = Infinity;
      shown.forEach((p, i) => {
        const d = along ? Math.abs(p.left - x) : Math.hypot(p.left - x, p.top - y);
        if (d < distance) { distance = d; best = i; }
      });
      return along || distance < 60 ? best : -1;
    }
    const moved = (e) => {
      const box = u.over.getBoundingClientRect();
      const i = nearest(e.clientX - box.left, e.clientY - box.top, options.along);
      if (i < 0) { tip.hidden = true; at = -1; } else show(i, false);
    };
    u.over.addEventListener("pointermove", moved);
    u.over.addEventListener("pointerdown", moved);
    u.over.addEventListener("pointerleave", () => { tip.hidden = true; at = -1; });
    const pressed = (e) => {
      const last = shown.length - 1;
      const to = {
        ArrowRight: Math.min(at + 1, last), ArrowUp: Math.min(at + 1, last), Home: 0, End: last,
        ArrowLeft: at < 0 ? last : Math.max(at - 1, 0), ArrowDown: at < 0 ? last : Math.max(at - 1, 0),
      }[e.key];
      if (e.key === "Escape") hide();
      else if (to !== undefined && last >= 0) { show(to, true); e.preventDefault(); }
    };
    place.addEventListener("keydown", pressed);
    place.addEventListener("blur", hide);
    plots.push({
      resize() { u.setSize(size()); },
      remove() { place.removeEventListener("keydown", pressed); place.removeEventListener("blur", hide); u.destroy(); },
    });
  }

  function dashed(ctx, from, to, stroke) {
    ctx.save();
    ctx.strokeStyle = stroke;
    ctx.lineWidth = 1.5 * devicePixelRatio;
    ctx.setLineDash([6 * devicePixelRatio, 4 * devicePixelRatio]);
    ctx.beginPath();
    ctx.moveTo(...from);
    ctx.lineTo(...to);
    ctx.stroke();
    ctx.restore();
  }
  function write(ctx, text, x, y, align, fill) {
    ctx.save();
    ctx.font = font(12 * devicePixelRatio);
    ctx.fillStyle = fill;
    ctx.textAlign = align;
    ctx.textBaseline = "middle";
    ctx.fillText(text, x, y);
    ctx.restore();
  }

  function scatter(place) {
    const dots = data.dots.slice().sort((a, b) => a.bytes - b.bytes);
    const largest = Math.max(...dots.map((d) => d.bytes));
    const smallest = Math.min(...dots.map((d) => d.bytes));
    const near = data.cap && data.cap_in_sight;
    const right = near ? Math.max(data.cap, largest) : largest;
    const pad = Math.max((right - smallest) * 0.1, right * 0.03);
    const fastest = Math.max(...dots.map((d) => (d.rate ? Math.max(d.rate[0], d.rate[2]) : 0)));
    const ground = colour("ground");
    const paint = (d) => (d.advice ? colour("soft") : d.kind === "bad" ? colour("bad") : d.kind === "unsure" ? colour("unsure") : d.of === "B" ? colour("second") : colour("accent"));
    const front = (of) => dots.map((d) => (d.front && d.of === of && d.rate ? d.rate[0] : null));
    const line = (stroke) => ({ stroke, width: 1.5, alpha: 0.6, spanGaps: true, points: { show: false }, paths: uPlot.paths.stepped({ align: 1 }) });

    function draw(u) {
      const { ctx, bbox } = u;
      const ratio = devicePixelRatio;
      const x = (b) => u.valToPos(b, "x", true);
      const y = (r) => u.valToPos(r, "y", true);
      if (near) {
        const cap = x(data.cap);
        ctx.fillStyle = colour("bad-soft");
        ctx.fillRect(cap, bbox.top, bbox.left + bbox.width - cap, bbox.height);
        dashed(ctx, [cap, bbox.top], [cap, bbox.top + bbox.height], colour("bad"));
        write(ctx, "cap " + bytes(data.cap), cap + 2 * ratio, bbox.top - 9 * ratio, "right", colour("bad"));
      } else if (data.cap) {
        // Far away: named at the edge, for it would press the chart flat.
        write(ctx, "cap " + bytes(data.cap) + " →", bbox.left + bbox.width, bbox.top - 9 * ratio, "right", colour("bad"));
      }
      const marks = dots.map((d) => ({ d, px: x(d.bytes), py: y(d.rate ? d.rate[0] : 0), bar: d.rate ? [y(d.rate[2]), y(d.rate[1])] : null }));
      // The winner last, on top of the others; its name first, for not every name finds room.
      marks.sort((a, b) => a.d.winner - b.d.winner).forEach((m) => mark(ctx, m, y));
      names(ctx, marks.slice().reverse(), bbox.top + bbox.height);
    }

    function mark(ctx, { d, px, py }, y) {
      const ratio = devicePixelRatio;
      ctx.save();
      ctx.strokeStyle = ctx.fillStyle = paint(d);
      ctx.lineWidth = 2 * ratio;
      ctx.beginPath();
      if (!d.rate) {
        const r = 4.5 * ratio;
        ctx.moveTo(px - r, py - r); ctx.lineTo(px + r, py + r);
        ctx.moveTo(px - r, py + r); ctx.lineTo(px + r, py - r);
        ctx.stroke();
      } else {
        ctx.lineWidth = 1.5 * ratio;
        ctx.moveTo(px, y(d.rate[1])); ctx.lineTo(px, y(d.rate[2]));
        ctx.stroke();
        ctx.lineWidth = 2 * ratio;
        ctx.beginPath();
        const r = (d.winner ? 6 : 5) * ratio;
        if (d.advice) { ctx.moveTo(px, py - r); ctx.lineTo(px + r, py); ctx.lineTo(px, py + r); ctx.lineTo(px - r, py); ctx.closePath(); }
        else ctx.arc(px, py, r, 0, 2 * Math.PI);
        if (d.advice || d.kind === "unsure") { ctx.fillStyle = ground; ctx.fill(); ctx.stroke(); } else ctx.fill();
        if (d.winner) {
          ctx.beginPath();
          ctx.arc(px, py, 10 * ratio, 0, 2 * Math.PI);
          ctx.stroke();
        }
      }
      ctx.restore();
    }

    // A name beside its mark, where it covers no other mark and no other name; else the tip has it.
    function names(ctx, marks, floor) {
      const ratio = devicePixelRatio;
      const taken = marks.map(({ d, px, py }) => [px, py, (d.winner ? 11 : 6) * ratio, (d.winner ? 11 : 6) * ratio]);
      taken.push(...marks.filter((m) => m.bar).map(({ px, bar: [top, foot] }) => [px, (top + foot) / 2, ratio, (foot - top) / 2]));
      for (const { d, px, py } of marks) {
        const [wide, far] = [(4 * d.name.length + 1) * ratio, (d.winner ? 19 : 14) * ratio];
        const room = [[0, -far], [0, far], [far + wide / 2, 0], [-far - wide / 2, 0], [far, -far], [-far, -far]].find(([dx, dy]) =>
          py + dy < floor && taken.every(([tx, ty, tw, th]) => Math.abs(px + dx - tx) > wide + tw || Math.abs(py + dy - ty) > 6 * ratio + th));
        if (!room) continue;
        taken.push([px + room[0], py + room[1], wide, 6 * ratio]);
        write(ctx, d.name, px + room[0], py + room[1], "center", d.winner ? paint(d) : colour("soft"));
      }
    }

    chart(place, {
      scales: { x: { time: false, range: [Math.max(0, smallest - pad), right + pad] }, y: { range: [0, fastest * 1.16] } },
      axes: [
        axis({ label: data.memory_name + " (peak)", size: 34, space: 100, incrs: BYTE_STEPS, values: byteTicks }),
        axis({ label: data.unit, size: 52, values: (_, s) => s.map(plain) }),
      ],
      // Both of a comparison have their own front.
      series: [{}, line(colour("accent")), line(colour("second"))],
      draw,
      cursor: { x: true, y: true },
    }, [dots.map((d) => d.bytes), front(dots.some((d) => d.of) ? "A" : ""), front("B")], (u) => dots.map((d) => ({
      left: u.valToPos(d.bytes, "x"), top: u.valToPos(d.rate ? d.rate[0] : 0, "y"),
      head: d.name + "  " + d.what + (d.winner ? " (winner)" : ""), lines: [d.text],
    })));
  }

  function trace(place, t) {
    const largest = Math.max(...data.traces.flatMap((o) => o.bytes));
    const near = data.cap && data.cap_in_sight;
    const top = (near ? Math.max(data.cap, largest) : largest) * 1.08;
    const stroke = t.winner ? colour("accent") : colour("reference");
    const columns = [t.at, t.bytes];
    const series = [{}, { stroke, width: 1.5, fill: t.winner ? colour("accent-soft") : colour("grid"), points: { show: false } }];
    if (t.allocator) {
      // The steps' moments are others than the sampler's: both on one axis of time, gaps bridged.
      const [at, ...lines] = uPlot.join([[t.at, t.bytes], [t.allocator.at, t.allocator.reserved, t.allocator.allocated]]);
      columns.splice(0, 2, at, ...lines);
      const line = { stroke: colour("second"), width: 1.25, spanGaps: true, points: { show: false } };
      series[1].spanGaps = true;
      series.push(line, { ...line, dash: [4, 3] });
    }
    function draw(u) {
      const { ctx, bbox } = u;
      if (near) {
        const y = u.valToPos(data.cap, "y", true);
        dashed(ctx, [bbox.left, y], [bbox.left + bbox.width, y], colour("bad"));
      }
      if (t.first_step !== null) {
        const x = u.valToPos(t.first_step, "x", true);
        ctx.save();
        ctx.strokeStyle = colour("soft");
        ctx.lineWidth = 1.25 * devicePixelRatio;
        ctx.setLineDash([2 * devicePixelRatio, 3 * devicePixelRatio]);
        ctx.beginPath();
        ctx.moveTo(x, bbox.top);
        ctx.lineTo(x, bbox.top + bbox.height);
        ctx.stroke();
        ctx.restore();
      }
    }
    chart(place, {
      along: true,
      padding: [6, 14, 0, 0],
      scales: { x: { time: false, range: [0, t.at[t.at.length - 1]] }, y: { range: [0, top] } },
      axes: [
        axis({ size: 24, gap: 4, space: 70, values: (_, s) => s.map((v) => plain(v) + " s") }),
        axis({ size: 58, space: 36, incrs: BYTE_STEPS, values: byteTicks }),
      ],
      series,
      draw,
      cursor: { y: false },
    }, columns, (u) => columns[0].flatMap((at, i) => (columns[1][i] == null ? [] : [{
      left: u.valToPos(at, "x"), top: u.valToPos(columns[1][i], "y"), head: bytes(columns[1][i]),
      lines: ["after " + seconds(at)].concat(columns[2] && columns[2][i] != null
        ? ["reserved " + bytes(columns[2][i]), "allocated " + bytes(columns[3][i])] : []),
    }])));
  }

  function losses(place) {
    const { reference, winner } = data.losses;
    const steps = reference.map((_, i) => i);
    const dot = (stroke) => ({ show: true, size: 6, fill: stroke, stroke });
    const [grey, accent] = [colour("reference"), colour("accent")];
    chart(place, {
      along: true,
      scales: { x: { time: false, range: [-0.15, steps.length - 0.85] } },
      axes: [axis({ label: "step", size: 30, incrs: [1, 2, 5, 10] }), axis({ label: "loss", size: 58, values: (_, s) => s.map(plain) })],
      // The reference is the wider line below, so that it shows where both agree.
      series: [{}, { stroke: grey, width: 5, alpha: 0.45, points: { show: false } }, { stroke: accent, width: 2, points: dot(accent) }],
      cursor: { y: false },
    }, [steps, reference, winner], (u) => steps.map((i) => ({
      left: u.valToPos(i, "x"), top: u.valToPos(winner[i] ?? reference[i] ?? 0, "y"), head: "step " + i,
      lines: ["as the script is " + figure(reference[i]), "winner’s settings " + figure(winner[i])],
    })));
  }
  // Points and the line through them.
  function curve(place, c, name) {
    const of = name === "bytes" ? { values: c.bytes, line: c.memory, text: bytes } : { values: c.seconds, line: c.time, text: (s) => plain(s * 1000) + " ms" };
    const right = c.batch[c.batch.length - 1] * 1.08;
    const at = [0, ...c.batch, right];
    const fit = at.map((b) => (of.line ? of.line[0] + of.line[1] * b : null));
    const accent = colour("accent");
    const ticks = name === "bytes" ? { incrs: BYTE_STEPS, values: byteTicks } : { values: (_, s) => s.map((v) => plain(v * 1000) + " ms") };
    chart(place, {
      along: true,
      padding: [6, 14, 0, 0],
      scales: { x: { time: false, range: [0, right] }, y: { range: [0, Math.max(...of.values, ...fit.filter((v) => v !== null)) * 1.1] } },
      axes: [axis({ size: 24, gap: 4, space: 50 }), axis({ size: 62, space: 36, ...ticks })],
      series: [{}, { stroke: colour("reference"), width: 1.5, points: { show: false } }, { stroke: accent, width: 0, points: { show: true, size: 8, fill: accent, stroke: accent } }],
      cursor: { y: false },
    }, [at, fit, [null, ...of.values, null]], (u) => c.batch.map((b, i) => ({
      left: u.valToPos(b, "x"), top: u.valToPos(of.values[i], "y"), head: of.text(of.values[i]), lines: ["batch " + b],
    })));
  }
  const figure = (x) => (x == null ? "-" : x.toPrecision(6));

  function draw() {
    plots.forEach((p) => p.remove());
    plots = [];
    const place = (id) => document.getElementById(id);
    if (place("scatter")) scatter(place("scatter"));
    data.traces.forEach((t, i) => trace(place("trace-" + i), t));
    data.curves.forEach((c, i) => ["bytes", "seconds"].forEach((name) => curve(place("curve-" + name + "-" + i), c, name)));
    if (place("loss")) losses(place("loss"));
    document.documentElement.dataset.drawn = String(plots.length);
  }
  draw();

  // Charts are pictures: other colours, another width or paper need another one.
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  matchMedia("print").addEventListener("change", draw);
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth !== width) { width = innerWidth; plots.forEach((p) => p.resize()); }
  });

  for (const button of document.querySelectorAll("[data-copy]")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      const code = button.parentElement.querySelector("code");
      try {
        await navigator.clipboard.writeText(code.textContent);
        button.textContent = "Copied";
      } catch {
        // Not allowed here: selected, so that the usual keys copy it.
        getSelection().selectAllChildren(code);
        button.textContent = "Selected";
      }
      spoken.textContent = button.textContent;
      setTimeout(() => { button.textContent = "Copy"; }, 1600);
    });
  }
})();
