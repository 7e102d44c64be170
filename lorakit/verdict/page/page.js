"use strict";
// Everything that comes from a file goes through text() or plotText(): none of it is ever read as markup.
(async () => {
  const page = document.getElementById("page");
  const unpack = async (id) => {
    const letters = atob(document.getElementById(id).textContent);
    const bytes = Uint8Array.from(letters, (letter) => letter.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  };
  if (!("DecompressionStream" in window)) {
    page.textContent = "This browser is too old to unpack the page: Chrome 80, Firefox 113, Safari 16.4 or newer can.";
    return;
  }
  const data = JSON.parse(await unpack("data"));

  // ---- small helpers -------------------------------------------------------------------------------------------------
  const make = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) {
      if (key === "class") element.className = value;
      else if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
      else if (key === "tint") element.style.setProperty("--tint", value);
      else if (value !== null && value !== undefined && value !== false) element.setAttribute(key, value === true ? "" : value);
    }
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
  };
  // Directional controls in a name must not reorder what stands beside it.
  const text = (value) => make("bdi", { dir: "auto" }, String(value));
  const plotText = (value) => String(value).replace(/[\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, "")
    .replace(/[&<>"']/g, (sign) => `&#${sign.charCodeAt(0)};`);
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const sides = data.sides;
  const many = sides.length > 12;
  const PALETTE = ["#3f83f8", "#f0803c", "#20a878", "#e0528f", "#9270f0", "#c79a10", "#22a7c9", "#e2574c", "#7fae35", "#a8825a", "#5f6caf", "#c05fc0"];
  const tint = (at) => sides.length <= PALETTE.length ? PALETTE[at] : `hsl(${(at * 137.508) % 360} 62% ${48 + (at % 3) * 8}%)`;
  const shown = sides.map(() => true);
  const NAMES = { unet: "UNet", te1: "TE1", te2: "TE2", all: "all" };
  const PARTS = ["unet", "te1", "te2"];
  const significant = (value) => value === 0 ? "0" : Math.abs(value) >= 1e-3 && Math.abs(value) < 1e4 ? String(+value.toPrecision(3)) : value.toExponential(2).replace("e+", "e");
  const duration = (seconds) => {
    if (seconds < 10) return `${seconds.toFixed(1)} s`;
    const whole = Math.round(seconds), two = (number) => String(number).padStart(2, "0");
    const hours = Math.floor(whole / 3600), minutes = Math.floor(whole / 60) % 60;
    return hours ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
  };
  const UNITS = {
    loss: (value) => Math.abs(value) < 0.1 ? value.toFixed(4) : value.toFixed(3),
    speed: (value) => value >= 1 ? `${value.toFixed(1)} it/s` : `${(1 / value).toFixed(1)} s/it`,
    duration,
    size: (value) => value >= 1e9 ? `${(value / 1e9).toFixed(1)} GB` : `${Math.round(value / 1e6)} MB`,
    norm: significant,
    plain: String,
  };
  const shownResult = (row, value) => value === null || value === undefined ? "–" : typeof value === "string" ? value : UNITS[row.unit](value);
  const result = (key) => data.rows.find((row) => row.group === "result" && row.key === key);
  const valueOf = (key, at) => { const row = result(key); return row && row.sort[at] !== null ? shownResult(row, row.sort[at]) : null; };
  const card = (title, tools, ...children) => make("section", { class: "card" },
    make("div", { class: "head" }, make("h2", {}, title), tools || null), ...children);
  const choice = (options, chosen, pick) => {
    const group = make("span", { class: "choice", role: "group" });
    for (const [value, label] of options) {
      group.append(make("button", {
        type: "button", "aria-pressed": String(value === chosen), "data-value": value, onclick: (event) => {
          for (const other of group.children) other.setAttribute("aria-pressed", String(other === event.currentTarget));
          pick(value);
        },
      }, label));
    }
    return group;
  };
  const redraws = [];
  const redraw = () => redraws.forEach((draw) => draw());

  // ---- head ----------------------------------------------------------------------------------------------------------
  page.replaceChildren(
    make("h1", {}, ...(data.kind === "report" ? [text(sides[0].name), " ", text(sides[0].label)] : [`${sides.length} runs side by side`])),
    make("p", { class: "sub" }, data.kind === "report" ? text(sides[0].id) : text(data.title), ` · ${data.made} · lorakit ${data.lorakit}`),
  );
  const runs = make("div", { class: many ? "runs many" : "runs" });
  sides.forEach((side, at) => {
    const figures = [["loss", valueOf("loss_last", at)], ["validation", valueOf("validation", at)], ["time", valueOf("seconds", at)], ["", valueOf("carried_by", at)]]
      .filter(([, value]) => value).map(([name, value]) => make("span", {}, name ? `${name} ` : "", make("b", {}, value)));
    runs.append(make("button", {
      type: "button", class: "run", tint: tint(at), "aria-pressed": "true", title: `${side.id}\nclick: hide or show`, onclick: (event) => {
        shown[at] = !shown[at];
        event.currentTarget.setAttribute("aria-pressed", String(shown[at]));
        redraw();
      },
    }, ...(many ? [make("b", {}, text(side.label))] : [
      make("span", { class: `state ${side.kind === "run" ? side.state : ""}` }, side.state === "ok" ? "✓ ok" : side.state),
      make("span", { class: "line" }, make("b", {}, text(side.label)), side.name === side.label ? null : make("span", { class: "name" }, text(side.name))),
      make("span", { class: "figures" }, ...figures),
      side.state !== "ok" && side.message ? make("span", { class: "note" }, text(side.message)) : null,
    ])));
  });
  page.append(runs);
  if (data.warnings.length) {
    const few = data.warnings.slice(0, 12), rest = data.warnings.length - few.length;
    page.append(make("section", { class: "card look" }, make("ul", {}, ...few.map((warning) => make("li", {}, text(warning))),
      rest ? make("li", {}, `and ${rest} more`) : null)));
  }

  // ---- findings ------------------------------------------------------------------------------------------------------
  if (data.findings && data.findings.length + data.healthy.length) {
    page.append(card("Diagnosis", null, ...data.findings.map((finding) => make("div", { class: "finding" },
      make("h3", {}, make("span", { class: "code" }, text(finding.code)), text(finding.title), make("span", { class: "sure" }, text(finding.confidence))),
      make("ul", {}, ...finding.evidence.map((proof) => make("li", { title: proof.value }, text(proof.text),
        proof.source ? make("code", {}, "  ", text(proof.source)) : null))),
      finding.advice.length ? make("ul", { class: "advice" }, ...finding.advice.map((advice) => make("li", {}, text(advice)))) : null)),
      data.healthy.length ? make("div", { class: "finding" }, make("h3", {}, make("span", { class: "ok" }, "✓ "), data.findings.length ? "well" : "nothing was found wrong"),
        make("ul", {}, ...data.healthy.map((line) => make("li", {}, text(line))))) : null));
  }

  // ---- the table -----------------------------------------------------------------------------------------------------
  const GROUPS = { setting: "settings that differ", input: "data, models, software", result: "results", same: data.kind === "report" ? "settings" : "settings that are the same" };
  const makeTable = () => {
    const holder = make("div", { class: "scroll", id: "table" });
    let flipped = sides.length > 8, all = data.kind === "report", order = null, downwards = false;
    const rows = () => data.rows.filter((row) => all || row.group !== "same");
    const cellOf = (row, at) => {
      const content = row.group === "result" ? shownResult(row, row.sort[at]) : row.shown[at];
      const cell = make("td", { title: row.origins && row.origins[at] ? `${content}\nfrom ${row.origins[at]}` : content }, text(content));
      if (row.group !== "result") {
        if (row.group !== "same" && at > 0 && content !== row.shown[0]) cell.classList.add("differs");
        if (row.origins && row.origins[at] === "default" && !"–?".includes(content)) cell.append(make("small", {}, "default"));
      }
      if (row.key === "validation" && typeof row.sort[at] === "number" && sides.length > 1) {
        const numbers = row.sort.filter((value) => typeof value === "number");
        if (row.sort[at] === Math.min(...numbers)) cell.classList.add("best");
      }
      return cell;
    };
    const compareValues = (one, other) => {
      const missing = (value) => value === null || value === undefined || value === "–" || value === "?";
      if (missing(one) || missing(other)) return missing(one) - missing(other);
      const found = typeof one === "number" && typeof other === "number" ? one - other : String(one).localeCompare(String(other), undefined, { numeric: true });
      return downwards ? -found : found;
    };
    const sorted = (items, value) => order === null ? items : [...items].sort((one, other) => compareValues(value(one), value(other)));
    const header = (key, ...label) => make("th", { scope: "col", "aria-sort": order === key ? (downwards ? "descending" : "ascending") : "none" },
      make("button", { type: "button", "data-sort": key, onclick: () => { downwards = order === key ? !downwards : false; order = key; draw(); } }, ...label));
    const sideName = (at) => [make("span", { class: "dot", tint: tint(at) }), text(sides[at].label)];
    const folder = (at) => make("a", { href: sides[at].href, title: sides[at].id }, ...sideName(at));
    const titleOf = (row) => row.title || row.key;
    const draw = () => {
      const table = make("table", { class: flipped ? "flipped" : "" });
      const body = make("tbody");
      if (flipped) {
        const used = rows();
        table.append(make("thead", {}, make("tr", {}, header("#", "run"), header("name", "name"), ...used.map((row) => header(row.group + row.key, text(row.group === "setting" || row.group === "same" ? row.key.split(".").pop() : titleOf(row)))))));
        const by = used.find((row) => row.group + row.key === order);
        const places = sorted(sides.map((_, at) => at), (at) => order === "#" ? sides[at].label : order === "name" ? sides[at].name : by ? by.sort[at] : at);
        for (const at of places) body.append(make("tr", {}, make("th", { scope: "row" }, folder(at)), make("td", {}, text(sides[at].name)), ...used.map((row) => cellOf(row, at))));
      } else {
        table.append(make("thead", {}, make("tr", {}, header("#", data.kind === "report" ? "setting" : "differs in"), ...sides.map((_, at) => header(`side${at}`, ...sideName(at))))));
        for (const group of Object.keys(GROUPS)) {
          const used = rows().filter((row) => row.group === group);
          if (!used.length) continue;
          body.append(make("tr", { class: "group" }, make("th", { colspan: sides.length + 1 }, GROUPS[group])));
          const at = order && order.startsWith("side") ? Number(order.slice(4)) : null;
          for (const row of sorted(used, (row) => at === null ? titleOf(row) : row.sort[at])) {
            body.append(make("tr", {}, make("th", { scope: "row", title: row.key }, text(titleOf(row))), ...sides.map((_, place) => cellOf(row, place))));
          }
        }
        if (!rows().some((row) => row.group === "setting" || row.group === "input") && sides.length > 1) {
          body.prepend(make("tr", {}, make("th", { colspan: sides.length + 1 }, "no setting and no input differs")));
        }
        body.append(make("tr", {}, make("th", { scope: "row" }, "folder"), ...sides.map((side) => make("td", {}, make("a", { href: side.href }, "open")))));
      }
      table.append(body);
      holder.replaceChildren(table);
    };
    draw();
    const tools = make("div", { class: "tools" },
      make("label", {}, make("input", { type: "checkbox", id: "all", checked: all, onchange: (event) => { all = event.target.checked; draw(); } }), data.kind === "report" ? "every setting" : "what is the same too"),
      sides.length > 1 ? choice([["columns", "runs across"], ["lines", "runs down"]], flipped ? "lines" : "columns", (value) => { flipped = value === "lines"; order = null; draw(); }) : null);
    return card(data.kind === "report" ? "Numbers and settings" : "What differs, and what came of it", tools, holder,
      sides.length > 1 ? make("p", { class: "note" }, "A click on a head sorts. Marked: unlike the first run. The results are those of each run's last checkpoint.") : null);
  };
  const pictures = () => {
    const list = make("dl", { class: "pictures" });
    const some = (label, names) => names.length ? make("dd", {}, `${label} ${names.length}: `, ...names.slice(0, 12).flatMap((name, at) => [at ? ", " : "", text(name)]), names.length > 12 ? ` and ${names.length - 12} more` : "") : null;
    data.datasets.forEach((one, at) => {
      if (!(one.added.length + one.removed.length + one.changed.length + one.recaptioned.length)) return;
      list.append(make("dt", {}, make("span", { class: "dot", tint: tint(at) }), text(sides[at].label)),
        ...[some("added", one.added), some("removed", one.removed), some("changed", one.changed)].filter(Boolean),
        ...one.recaptioned.slice(0, 12).map((picture) => make("dd", {}, make("code", {}, text(picture.name)), " ", make("del", {}, text(picture.before)), " → ", make("ins", {}, text(picture.after)))),
        ...(one.recaptioned.length > 12 ? [make("dd", {}, `and ${one.recaptioned.length - 12} more recaptioned`)] : []));
    });
    return list.children.length ? card("Pictures that differ", make("span", { class: "tools" }, "against ", text(sides[0].label)), list) : null;
  };

  // ---- plots ---------------------------------------------------------------------------------------------------------
  const look = (more = {}) => ({
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false, hovermode: "closest",
    font: { family: "system-ui, sans-serif", size: 12, color: colour("--dim") }, margin: { l: 54, r: 10, t: 8, b: 34 },
    hoverlabel: { bgcolor: colour("--card"), bordercolor: colour("--line"), font: { color: colour("--ink"), size: 12 } }, ...more,
  });
  const axis = (more = {}) => ({ gridcolor: colour("--line"), linecolor: colour("--line"), zerolinecolor: colour("--line"), automargin: true, tickfont: { size: 11 }, ...more });
  const CONFIG = { displaylogo: false, responsive: true, displayModeBar: false, doubleClick: "reset" };
  const fine = window.matchMedia("(pointer: fine)").matches;
  // The loss of single steps is mostly noise: what is looked at first is its course.
  const choices = { x: "step", smooth: data.curves.some((curves) => curves.series.loss && curves.series.loss.y.length > 60) ? 0.9 : 0, log: false, zoom: fine };
  const PANELS = [["loss", "Loss", /^(loss|validation)$/], ["lr", "Learning rate", /^lr\./], ["grad", "Gradient norm, before clipping", /^grad\./]];
  const DASH = { unet: "solid", te1: "dash", te2: "dot", all: "solid" };
  const smoothed = (values, weight) => {
    // An exponential mean, corrected for its start.
    let mean = 0, counted = 0;
    return values.map((value) => {
      if (value === null) return null;
      mean = mean * weight + value * (1 - weight);
      counted = counted * weight + (1 - weight);
      return mean / counted;
    });
  };
  const tracesOf = (pattern) => {
    const traces = [];
    data.curves.forEach((curves, at) => {
      if (!shown[at]) return;
      for (const [name, series] of Object.entries(curves.series)) {
        if (!pattern.test(name)) continue;
        const [kind, part] = name.split(".");
        if (series[choices.x].every((value) => value === null)) continue;
        const label = plotText(sides[at].label) + (part ? ` ${NAMES[part] || part}` : kind === "validation" ? " validation" : "");
        const common = { type: "scatter", x: series[choices.x], hovertemplate: `%{y:.4g}<br>${choices.x} %{x:.6g}<extra>${label}</extra>` };
        const validation = kind === "validation";
        const noisy = !validation && kind !== "lr" && choices.smooth > 0 && series.y.length > 2;
        if (noisy && sides.length <= 6) traces.push({ ...common, y: series.y, mode: "lines", hoverinfo: "skip", hovertemplate: null, opacity: 0.22, line: { color: tint(at), width: 1, dash: DASH[part] } });
        traces.push({
          ...common, y: noisy ? smoothed(series.y, choices.smooth) : series.y, mode: validation ? "lines+markers" : "lines",
          marker: { size: 7, symbol: "diamond", color: tint(at) }, opacity: sides.length > 30 ? 0.55 : 1,
          line: { color: tint(at), width: validation ? 1 : many ? 1.2 : 1.8, dash: validation ? "dot" : DASH[part] || "solid" },
        });
      }
    });
    return traces;
  };
  const exists = (pattern) => data.curves.some((curves) => Object.keys(curves.series).some((name) => pattern.test(name)));
  const makeCurves = () => {
    const used = PANELS.filter(([, , pattern]) => exists(pattern));
    if (!used.length) return null;
    const grid = make("div", { class: "plots" });
    const drawn = {};
    for (const [key, title, pattern] of used) {
      const plot = make("div", { class: "plot", id: `plot-${key}` });
      const parts = PARTS.filter((part) => data.curves.some((curves) => `${key}.${part}` in curves.series));
      const legend = key === "loss" ? (exists(/^validation$/) ? [make("span", {}, make("i", { class: "dash" }), "training"), make("span", {}, make("i", { class: "dash val" }), "validation")] : [])
        : parts.map((part) => make("span", {}, make("i", { class: `dash ${part}` }), NAMES[part]));
      grid.append(make("div", { class: key === "loss" ? "wide" : "" }, make("h3", {}, title, ...legend), plot));
      drawn[key] = { plot, pattern };
    }
    let busy = false;
    const draw = () => {
      for (const [key, { plot, pattern }] of Object.entries(drawn)) {
        const time = choices.x === "time";
        const traces = tracesOf(pattern);
        Plotly.react(plot, traces, look({
          dragmode: choices.zoom ? "zoom" : false, uirevision: choices.x + choices.log,
          xaxis: axis({ title: { text: time ? "seconds of training" : choices.x, font: { size: 11 }, standoff: 4 }, fixedrange: !choices.zoom }),
          yaxis: axis({ type: choices.log ? "log" : "linear", fixedrange: !choices.zoom, exponentformat: "e", ...(key === "lr" && !choices.log ? { rangemode: "tozero" } : {}) }),
        }), CONFIG);
        if (!plot.dataset.heard) {
          plot.dataset.heard = "yes";
          // What one plot is zoomed to along the run, the others are too.
          plot.on("plotly_relayout", (change) => {
            if (busy) return;
            const range = change["xaxis.range[0]"] !== undefined ? { "xaxis.range": [change["xaxis.range[0]"], change["xaxis.range[1]"]] }
              : change["xaxis.autorange"] ? { "xaxis.autorange": true } : null;
            if (!range) return;
            busy = true;
            Promise.all(Object.values(drawn).filter((other) => other.plot !== plot).map((other) => Plotly.relayout(other.plot, range))).finally(() => { busy = false; });
          });
        }
      }
    };
    redraws.push(draw);
    const epochs = data.curves.some((curves) => Object.values(curves.series).some((series) => series.epoch.some((value) => value !== null)));
    const tools = make("div", { class: "tools" },
      choice([["step", "step"], ...(epochs ? [["epoch", "epoch"]] : []), ["time", "time"]], "step", (value) => { choices.x = value; draw(); }),
      make("label", {}, "smoothing", make("input", { type: "range", id: "smooth", min: 0, max: 0.99, step: 0.01, value: choices.smooth, oninput: (event) => { choices.smooth = Number(event.target.value); draw(); } })),
      make("label", {}, make("input", { type: "checkbox", id: "log", onchange: (event) => { choices.log = event.target.checked; draw(); } }), "log axis"),
      make("label", {}, make("input", { type: "checkbox", id: "zoom", checked: choices.zoom, onchange: (event) => { choices.zoom = event.target.checked; draw(); } }), "drag zooms"));
    const means = Math.max(...data.curves.flatMap((curves) => Object.values(curves.series).map((series) => series.mean_of)), 1);
    const notes = [means > 1 ? `Of long runs each point is the mean of up to ${Math.round(means)} steps.` : null,
      ...data.curves.map((curves, at) => curves.complaint ? `${sides[at].label}: ${curves.complaint}.` : null)].filter(Boolean);
    return card("Curves", tools, grid, notes.length ? make("p", { class: "note" }, text(notes.join(" "))) : null);
  };

  // ---- sweep ---------------------------------------------------------------------------------------------------------
  const makeSweep = () => {
    if (!data.sweep || !data.sweep.axes.length) return null;
    const { axes, points } = data.sweep;
    const real = axes.filter((key) => key !== "seed").length ? axes.filter((key) => key !== "seed") : axes;
    const measures = data.rows.filter((row) => row.group === "result" && row.sort.some((value) => typeof value === "number"));
    const state = { across: real[real.length - 1], down: real.length > 1 ? real[0] : null, measure: (measures.find((row) => row.key === "validation") || measures.find((row) => row.key === "loss_last") || measures[0]).key };
    const plot = make("div", { class: "plot", id: "plot-sweep" });
    const draw = () => {
      const row = result(state.measure);
      const valuesOf = (key) => [...new Set(points.map((point) => point[key]).filter((value) => value !== undefined))].sort((one, other) => Number(one) - Number(other) || String(one).localeCompare(String(other), undefined, { numeric: true }));
      const across = valuesOf(state.across), down = state.down ? valuesOf(state.down) : [""];
      const cells = down.map((low) => across.map((high) => points.flatMap((point, at) =>
        shown[at] && point[state.across] === high && (!state.down || point[state.down] === low) && typeof row.sort[at] === "number" ? [row.sort[at]] : [])));
      const mean = cells.map((line) => line.map((values) => values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : null));
      const flat = mean.flat().filter((value) => value !== null);
      const low = Math.min(...flat), high = Math.max(...flat);
      const dark = window.matchMedia("(prefers-color-scheme: dark)").matches;
      const scale = dark ? [[0, "#58a6ff"], [0.5, "#234a7d"], [1, "#1b222d"]] : [[0, "#2f6feb"], [0.5, "#a9c7fb"], [1, "#eef3fb"]];
      const ink = (value) => { const at = high > low ? (value - low) / (high - low) : 0.5; return dark ? (at < 0.3 ? "#08111f" : "#e3e8ef") : (at < 0.4 ? "#ffffff" : "#1c2430"); };
      const annotations = mean.flatMap((line, y) => line.map((value, x) => value === null ? null : {
        x, y, showarrow: false, font: { size: across.length > 8 ? 10 : 13, color: ink(value) },
        text: plotText(shownResult(row, value)) + (cells[y][x].length > 1 ? `<br>n=${cells[y][x].length}` : "") }).filter(Boolean));
      Plotly.react(plot, [{ type: "heatmap", x: across.map((_, at) => at), y: down.map((_, at) => at), z: mean, colorscale: scale, xgap: 3, ygap: 3, hoverongaps: false, showscale: flat.length > 1,
        hovertemplate: "%{z:.5g}<extra></extra>", colorbar: { thickness: 10, outlinewidth: 0, tickfont: { size: 10 } } }],
      look({ annotations, dragmode: false, margin: { l: 70, r: 10, t: 8, b: 44 },
        xaxis: axis({ tickvals: across.map((_, at) => at), ticktext: across.map(plotText), title: { text: plotText(state.across), font: { size: 12 } }, showgrid: false, zeroline: false, fixedrange: true }),
        yaxis: axis({ tickvals: down.map((_, at) => at), ticktext: down.map(plotText), title: { text: state.down ? plotText(state.down) : "", font: { size: 12 } }, showgrid: false, zeroline: false, fixedrange: true }) }), CONFIG);
    };
    redraws.push(draw);
    const menu = (name, values, chosen, pick) => make("label", {}, name, make("select", { "data-menu": name, onchange: (event) => { pick(event.target.value); draw(); } },
      ...values.map(([value, label]) => make("option", { value, selected: value === chosen }, label))));
    const keys = axes.map((key) => [key, key]);
    const tools = make("div", { class: "tools" }, menu("shows", measures.map((row) => [row.key, row.title]), state.measure, (value) => { state.measure = value; }),
      real.length > 1 ? menu("across", keys, state.across, (value) => { state.across = value; }) : null,
      real.length > 1 ? menu("down", keys, state.down, (value) => { state.down = value; }) : null);
    return card("Sweep", tools, plot, make("p", { class: "note" }, "Each cell is the mean of the runs there (n of them, over every other axis and seed)."));
  };

  // ---- weights -------------------------------------------------------------------------------------------------------
  const makeWeights = () => {
    const measured = data.weights.map((weight, at) => [weight, at]).filter(([weight]) => weight && weight.norm);
    if (!measured.length) return null;
    const shares = make("div", { class: "share" });
    const SHADES = { unet: 1, te1: 0.6, te2: 0.32 };
    for (const [weight, at] of measured.slice(0, 40)) {
      const bar = make("div", { class: "bar", title: PARTS.filter((part) => weight.parts[part]).map((part) => `${NAMES[part]} ${(weight.parts[part].share * 100).toFixed(1)} %`).join("\n") });
      for (const part of PARTS) {
        if (!weight.parts[part]) continue;
        const piece = make("i");
        piece.style.cssText = `width:${weight.parts[part].share * 100}%;background:${tint(at)};opacity:${SHADES[part]}`;
        bar.append(piece);
      }
      shares.append(make("span", {}, make("span", { class: "dot", tint: tint(at) }), text(sides[at].label)), bar,
        make("span", {}, PARTS.filter((part) => weight.parts[part]).map((part) => `${NAMES[part]} ${Math.round(weight.parts[part].share * 100)} %`).join("  ")));
    }
    const parts = PARTS.filter((part) => measured.some(([weight]) => weight.parts[part] && weight.parts[part].norm));
    const state = { part: parts[0] };
    const plot = make("div", { class: "plot", id: "plot-weights" });
    const draw = () => {
      const visible = measured.filter(([, at]) => shown[at]);
      const blocks = [...new Set(measured.flatMap(([weight]) => Object.keys((weight.parts[state.part] || { blocks: {} }).blocks)))];
      const rank = (block) => ["IN", "MI", "OU", "L0", "L1", "L2", "L3"].indexOf(block.slice(0, 2)) * 100 + Number(block.replace(/\D/g, "") || 0);
      blocks.sort((one, other) => rank(one) - rank(other));
      const norm = (weight, block) => ((weight.parts[state.part] || { blocks: {} }).blocks[block] ?? null);
      if (measured.length > 8) {
        Plotly.react(plot, [{ type: "heatmap", x: blocks, y: visible.map(([, at]) => plotText(sides[at].label)), z: visible.map(([weight]) => blocks.map((block) => norm(weight, block))), colorscale: [[0, colour("--soft")], [1, colour("--accent")]],
          hovertemplate: "%{y} %{x}: %{z:.3g}<extra></extra>", colorbar: { thickness: 10, outlinewidth: 0 } }], look({ dragmode: false, xaxis: axis({ type: "category", fixedrange: true }), yaxis: axis({ type: "category", fixedrange: true, autorange: "reversed" }) }), CONFIG);
      } else {
        Plotly.react(plot, visible.map(([weight, at]) => ({ type: "bar", x: blocks, y: blocks.map((block) => norm(weight, block)), marker: { color: tint(at) }, hovertemplate: `%{x}: %{y:.3g}<extra>${plotText(sides[at].label)}</extra>` })),
          look({ barmode: "group", bargap: 0.25, dragmode: false, xaxis: axis({ type: "category", fixedrange: true }), yaxis: axis({ title: { text: "‖ΔW‖", font: { size: 11 } }, fixedrange: true }) }), CONFIG);
      }
    };
    redraws.push(draw);
    const grown = data.growth && data.growth.length > 1 ? make("div", { class: "plot", id: "plot-growth" }) : null;
    if (grown) {
      redraws.push(() => Plotly.react(grown, parts.map((part) => ({ type: "scatter", mode: "lines+markers", name: NAMES[part], x: data.growth.map((one) => plotText(one.file.replace(/\.safetensors$/, ""))), y: data.growth.map((one) => one.parts[part] ? one.parts[part].norm : null),
        line: { color: tint(0), dash: DASH[part], width: 1.8 }, marker: { color: tint(0), size: 6 }, hovertemplate: `%{x}: %{y:.3g}<extra>${NAMES[part]}</extra>` })),
      look({ dragmode: false, xaxis: axis({ type: "category", fixedrange: true, tickangle: 0, showticklabels: data.growth.length < 9 && window.innerWidth > 720 }), yaxis: axis({ rangemode: "tozero", fixedrange: true, title: { text: "‖ΔW‖", font: { size: 11 } } }) }), CONFIG));
    }
    return card("What the weights did", null, shares,
      make("div", { class: "head" }, make("strong", {}, "by block"), make("div", { class: "tools" }, choice(parts.map((part) => [part, NAMES[part]]), state.part, (value) => { state.part = value; draw(); }))), plot,
      grown ? make("strong", {}, "along the checkpoints") : null, grown,
      make("p", { class: "note" }, "‖ΔW‖ is the Frobenius norm of what the LoRA adds; shares are of its square. The last checkpoint of each run."));
  };

  // ---- samples -------------------------------------------------------------------------------------------------------
  const makeSamples = () => {
    const having = data.samples.map((some, at) => [some, at]).filter(([some]) => some.length);
    if (!having.length) return null;
    // Runs of other lengths are put side by side by epoch where they have epochs, else by step.
    const byEpoch = having.every(([some]) => some.every((one) => one.epoch !== null));
    const moment = (one) => (byEpoch ? one.epoch : one.step) ?? 0;
    const moments = [...new Set(having.flatMap(([some]) => some.map(moment)))].sort((one, other) => one - other);
    const prompts = [...new Set(having.flatMap(([some]) => some.map((one) => one.prompt)))].sort((one, other) => one - other);
    const grid = make("div", { class: "samples", id: "samples" });
    const output = make("output", { id: "moment" });
    let at = moments.length - 1;
    const wordsOf = (prompt) => (having.flatMap(([some]) => some).find((one) => one.prompt === prompt && one.text) || { text: `prompt ${prompt + 1}` }).text;
    const pictureOf = ([some, side], prompt) => {
      // The newest picture up to this moment: runs that sample less often stay to be seen.
      const picture = some.filter((one) => one.prompt === prompt && moment(one) <= moments[at]).pop();
      if (!picture) return make("span", { class: "none" }, "none yet");
      const said = `${sides[side].label}, ${byEpoch ? "epoch" : "step"} ${moment(picture)}`;
      return make("a", { href: picture.href, title: said }, picture.src
        ? make("img", { src: picture.src, alt: said, "data-moment": moment(picture) }) : make("span", { class: "none" }, "open the picture"));
    };
    const draw = () => {
      const visible = having.filter(([, side]) => shown[side]);
      output.textContent = `${byEpoch ? "epoch" : "step"} ${moments[at]}`;
      if (having.length === 1) {  // one run: its prompts beside each other
        grid.style.gridTemplateColumns = `repeat(auto-fill, minmax(${Math.min(240, window.innerWidth / 2 - 30)}px, 1fr))`;
        grid.replaceChildren(...prompts.map((prompt) => make("div", { class: "cell" }, pictureOf(having[0], prompt), make("span", { class: "prompt" }, text(wordsOf(prompt))))));
        return;
      }
      grid.style.gridTemplateColumns = window.innerWidth > 720 ? `minmax(90px, 170px) repeat(${visible.length}, minmax(110px, 260px))` : `repeat(${visible.length}, minmax(120px, 1fr))`;
      grid.replaceChildren();
      if (window.innerWidth > 720) grid.append(make("span"));
      for (const [, side] of visible) grid.append(make("span", { class: "who" }, make("span", { class: "dot", tint: tint(side) }), text(sides[side].label)));
      for (const prompt of prompts) {
        grid.append(make("span", { class: "prompt" }, text(wordsOf(prompt))));
        for (const one of visible) grid.append(make("span", { class: "cell" }, pictureOf(one, prompt)));
      }
    };
    redraws.push(draw);
    const tools = make("div", { class: "tools" }, make("label", {}, output, make("input", { type: "range", id: "epoch", min: 0, max: moments.length - 1, step: 1, value: at, "aria-label": "moment", oninput: (event) => { at = Number(event.target.value); draw(); } })));
    return card("Samples", moments.length > 1 ? tools : output, grid);
  };
  const makeSheets = () => data.sheets && data.sheets.length ? card("Contact sheet", null, ...data.sheets.map((sheet) => make("a", { href: sheet.href }, make("img", { class: "sheet", src: sheet.src, alt: sheet.title })))) : null;

  // ---- together ------------------------------------------------------------------------------------------------------
  const report = data.kind === "report";
  const makers = report ? [makeCurves, makeSamples, makeSheets, makeWeights, makeTable] : [makeTable, pictures, makeSweep, makeCurves, makeSamples, makeWeights];
  for (const maker of makers) {
    const section = maker();
    if (section) page.append(section);
  }
  page.append(make("footer", {}, `One file, no network. Links lead to the run ${sides.length > 1 ? "folders" : "folder"}: `,
    ...sides.slice(0, 40).flatMap((side, at) => [at ? " · " : "", make("a", { href: side.href }, text(side.id))])));
  const script = document.createElement("script");
  script.textContent = await unpack("plotly");
  document.head.append(script);
  redraw();
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  let width = window.innerWidth;
  window.addEventListener("resize", () => { if ((window.innerWidth > 720) !== (width > 720)) redraw(); width = window.innerWidth; });
  document.documentElement.dataset.ready = "yes";
})().catch((error) => {
  document.getElementById("page").append(`This page could not be drawn: ${error.message}`);
  throw error;
});
