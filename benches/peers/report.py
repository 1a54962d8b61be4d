"""What the figures come to: tables in Markdown, charts in SVG."""

import re
import statistics
from xml.sax.saxutils import escape

from contenders import NAMES, OWN, TITLES

median = statistics.median


def ordered(names):
    return [name for name in NAMES if name in names]


def ratio(turns, name, ours="tidegate"):
    """The CPU time of one of ours over another's, turn by turn."""
    return median(our["micros"] / their["micros"] for our, their in zip(turns[ours], turns[name]))


def beside_the_best(turns, ours):
    """The same over that of the best of the peers."""
    ratios = [ratio(turns, name, ours) for name in turns if name not in (*OWN, "relay") and turns[name]]
    return f"**{max(ratios):.2f}**" if turns.get(ours) and ratios else "–"


def is_ceiling(turns):
    """Whether it was the proxy that could no more: its core was busy, and neither generator nor origin was."""
    return median(turn["proxy_busy"] for turn in turns) > 0.9 and median(turn["load_busy"] for turn in turns) < 0.97


def cpu_lines(turns):
    for name in ordered(turns):
        each = [turn["micros"] for turn in turns[name]]
        beside = f"  tidegate/{name} {ratio(turns, name):.3f}" if "tidegate" in turns and name != "tidegate" else ""
        rate, proxy, load = (median(turn[key] for turn in turns[name]) for key in ("per_second", "proxy_busy", "load_busy"))
        yield name, (f"{median(each):9.2f} us ({min(each):.2f} to {max(each):.2f})  {rate:9,.0f}/s, busy: proxy {proxy:.0%}, "
                     f"load {load:.0%}{beside}")


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def markdown(results):
    parts = [preamble(results)]
    if results.get("cpu"):
        parts += [cpu_table(results["cpu"]), ratio_table(results["cpu"]), rate_table(results["cpu"])]
    if results.get("latency"):
        parts.append(latency_table(results["latency"]))
    if results.get("memory"):
        parts.append(memory_table(results["memory"]))
    if results.get("scaling") or results.get("services"):
        parts.append(growth_table(results.get("scaling", {}), results.get("services", {})))
    if results.get("reload"):
        parts.append(reload_table(results["reload"]))
    return "\n".join(parts)


def put_into_docs(results, docs):
    """Between two marks, so that what a person has written around them stays."""
    draw(results, docs / "charts")
    page = docs / "benchmarks.md"
    charts = "".join(f"![{title}](charts/{name}.svg)\n\n" for name, title in CHARTS.items() if results.get(name))
    text = f"{BEGIN}\n\n{charts}{markdown(results)}\n{END}"
    page.write_text(re.sub(f"{re.escape(BEGIN)}.*{re.escape(END)}", lambda _: text, page.read_text(), flags=re.DOTALL))


BEGIN, END = "<!-- begin of what benches/peers/run --docs writes -->", "<!-- end of what it writes -->"
CHARTS = {"cpu": "CPU time per request", "latency": "Latency at a fixed rate", "memory": "Memory per connection"}


def preamble(results):
    machine = results["machine"]
    versions = ", ".join(f"{TITLES[name]} {version}" for name, version in machine["versions"].items())
    return (f"{machine['cores']} cores ({machine['processor']}, Linux {machine['kernel']}); medians of {results['rounds']} "
            f"rounds of {results['seconds']} s. {versions}.\n")


def all_names(cpu):
    return ordered({name for scenario in cpu.values() for name in scenario["turns"]})


def cell(turns, name, text):
    return text(turns[name]) if turns.get(name) else "–"


def cpu_table(cpu):
    names = all_names(cpu)
    rows = [[scenario["title"] if scenario["unit"] == "request" else f"{scenario['title']}, per {scenario['unit']}",
             *(cell(scenario["turns"], name, lambda each: f"{median(t['micros'] for t in each):.2f}") for name in names)]
            for scenario in cpu.values()]
    return "CPU time per request, in microseconds:\n\n" + table(["", *map(TITLES.get, names)], rows)


def ratio_table(cpu):
    names = all_names(cpu)
    others = [name for name in names if name not in ("tidegate", "guided")]
    summed_up = {"tidegate": "the best peer's"} | ({"guided": "guided: the best peer's"} if "guided" in names else {})
    rows = []
    for scenario in cpu.values():
        turns = scenario["turns"]
        if not turns.get("tidegate"):
            continue
        rows.append([scenario["title"], *(cell(turns, name, lambda _: f"{ratio(turns, name):.2f}") for name in others),
                     *(beside_the_best(turns, ours) for ours in summed_up)])
    heads = ["tidegate's CPU time as a multiple of", *map(TITLES.get, others), *summed_up.values()]
    return table(heads, rows)


def rate_table(cpu):
    """Rates that the proxy limited; others say more about the load."""
    names = all_names(cpu)

    def rate(each):
        text = f"{median(t['per_second'] for t in each):,.0f}"
        return text if is_ceiling(each) else f"({text})"

    rows = [[scenario["title"], *(cell(scenario["turns"], name, rate) for name in names)] for scenario in cpu.values()]
    busiest = max(median(t["load_busy"] for t in each) for s in cpu.values() for each in s["turns"].values() if each)
    return ("Per second, saturated. In brackets where it wasn't the proxy's core that had no more to give (less than 90 % busy, or "
            f"generator or origin more than 97 %; at most they were {busiest:.0%}):\n\n"
            + table(["", *map(TITLES.get, names)], rows))


def latency_table(latency):
    names = ordered({name for each in latency.values() for name in each["turns"]})
    rows = []
    for each in latency.values():
        direct = quantiles(each["turns"]["direct"])
        cells = []
        for name in names:
            if name in each["saturated"]:
                cells.append("saturated")
            elif each["turns"].get(name):
                own = quantiles(each["turns"][name])
                cells.append(" / ".join(f"{max(0, a - b):,.0f}" for a, b in zip(own, direct)))
            else:
                cells.append("–")
        transport = {"plain": "HTTP/1.1", "tls": "TLS", "h2": "HTTP/2"}[each["transport"]]
        rows.append([f"{transport}, {each['rate']:,}/s", " / ".join(f"{q:,.0f}" for q in direct), *cells])
    return ("Latency that the proxy adds to what is there without one, 50th / 99th / 99.9th percentile in microseconds, in an open "
            "loop at a quarter and a half of tidegate's saturation, or what the generator can vouch for:\n\n"
            + table(["", "without a proxy", *map(TITLES.get, names)], rows))


def quantiles(turns):
    return [median(turn[key] for turn in turns) for key in ("p50", "p99", "p99.9")]


def memory_table(memory):
    names = ordered(memory)
    titles = {"plain": "an idle HTTP/1.1 connection", "tls": "the same over TLS", "h2": "an idle HTTP/2 connection",
              "slow": "a reader that doesn't read (100 MiB)"}

    def size(count):
        return f"{count / 1024:,.1f} KiB" if count < 1 << 20 else f"{count / (1 << 20):,.1f} MiB"

    def row(title, kind, key):
        return [title, *(size(max(0, memory[name][kind][key])) if kind in memory[name] else "–" for name in names)]

    rows = [row("a process at its start", "plain", "start")]
    for kind, title in titles.items():
        count = next((m[kind]["connections"] for m in memory.values() if kind in m), 0)
        rows.append(row(f"{title}, of {count:,}", kind, "each"))
    rows += [row(f"6 s after they are closed: {kind}, more than at the start", kind, "closed") for kind in titles]
    return "Memory of the process tree (PSS; the kernel's own isn't in it):\n\n" + table(["", *map(TITLES.get, names)], rows)


def growth_table(scaling, services):
    names = ordered({*scaling, *services})
    rows = []
    if scaling:
        rows.append(["two workers can do as much as one, times",
                     *(f"{scaling[name]['times']:.2f}" if name in scaling else "–" for name in names)])
        rows.append(["the busier of them has a share of",
                     *(f"{scaling[name]['busier']:.0%}" if name in scaling else "–" for name in names)])
    if services:
        rows.append(["a request among 10,000 services costs as much as with one, times",
                     *(f"{services[name]['ratio']:.3f}" if name in services else "–" for name in names)])
    return table(["", *map(TITLES.get, names)], rows)


def reload_table(reload):
    rows = [[title, *(f"{reload[key][q] / 1000:,.2f} ms" for q in ("p50", "p99", "p99.9", "longest"))]
            for key, title in (("calm", "without reloads"), ("reloading", "a reload every two seconds"))]
    return "Reloads of 10,000 services while they serve:\n\n" + table(["", "p50", "p99", "p99.9", "longest"], rows)


# Distinct for those who see few colours, and on both backgrounds.
COLOURS = {"tidegate": "#0d9488", "guided": "#0f766e", "unguarded": "#5eead4", "before": "#94a3b8", "nginx": "#e69f00",
           "haproxy": "#0072b2", "envoy": "#cc79a7", "pingora": "#8b5cf6", "relay": "#8a8a8a"}
STYLE = """<style>
text { font: 12px system-ui, sans-serif; fill: #1f2937 } .title { font-size: 14px; font-weight: 600 }
.rule { stroke: #9ca3af; stroke-dasharray: 3 3 }
@media (prefers-color-scheme: dark) { text { fill: #e5e7eb } .rule { stroke: #6b7280 } }
</style>"""
LABELS, BARS, BAR, GAP, CLIP = 270, 430, 11, 12, 4.0


def draw(results, folder):
    folder.mkdir(parents=True, exist_ok=True)
    if results.get("cpu"):
        groups = {s["title"]: {name: 1 / ratio(s["turns"], name) for name in ordered(s["turns"]) if s["turns"][name]}
                  for s in results["cpu"].values() if s["turns"].get("tidegate")}
        text = chart("CPU time per request, tidegate's = 1 (shorter is better)", groups, "{:.2f}", rule=1, clip=CLIP)
        (folder / "cpu.svg").write_text(text)
    if results.get("latency"):
        groups = {}
        for each in results["latency"].values():
            transport = {"plain": "HTTP/1.1", "tls": "TLS", "h2": "HTTP/2"}[each["transport"]]
            groups[f"{transport}, {each['rate']:,}/s"] = {
                name: quantiles(each["turns"][name])[1] / 1000 for name in ordered(each["turns"])}
        longest = sorted(value for each in groups.values() for value in each.values())
        text = chart("99th percentile of latency at a fixed rate, ms (shorter is better)", groups, "{:.2f}",
                     clip=4 * median(longest))
        (folder / "latency.svg").write_text(text)
    if results.get("memory"):
        titles = {"plain": "idle, HTTP/1.1", "tls": "idle, TLS", "h2": "idle, HTTP/2", "slow": "slow reader"}
        groups = {title: {name: max(0, results["memory"][name][kind]["each"]) / 1024 for name in ordered(results["memory"])
                          if kind in results["memory"][name]} for kind, title in titles.items()}
        text = chart("Memory per connection, KiB (shorter is better)", groups, "{:,.1f}", clip=128)
        (folder / "memory.svg").write_text(text)


def chart(title, groups, form, clip, rule=None):
    """Bars in groups; those beyond `clip` are cut there, and their number says how long they would be."""
    longest = min(clip, max((value for group in groups.values() for value in group.values()), default=1)) or 1
    names = ordered({name for group in groups.values() for name in group})
    y, marks, at = 60, [], LABELS - 90
    for name in names:
        marks.append(f'<rect x="{at}" y="30" width="10" height="10" rx="2" fill="{COLOURS[name]}"/>'
                     f'<text x="{at + 14}" y="39">{escape(TITLES[name])}</text>')
        at += 30 + 7 * len(TITLES[name])
    for label, group in groups.items():
        middle = y + BAR * len(group) / 2
        marks.append(f'<text x="{LABELS - 10}" y="{middle + 4:.0f}" text-anchor="end">{escape(label)}</text>')
        for name in [name for name in names if name in group]:
            value = group[name]
            width = max(1, BARS * min(value, longest) / longest)
            more = " »" if value > longest else ""
            marks.append(f'<rect x="{LABELS}" y="{y}" width="{width:.1f}" height="{BAR - 2}" rx="2" fill="{COLOURS[name]}"/>'
                         f'<text x="{LABELS + width + 5:.1f}" y="{y + BAR - 2}" style="font-size:10px">'
                         f'{escape(form.format(value) + more)}</text>')
            y += BAR
        y += GAP
    if rule:
        x = LABELS + BARS * rule / longest
        marks.append(f'<line class="rule" x1="{x:.1f}" y1="52" x2="{x:.1f}" y2="{y}"/>')
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 780 {y + 8}" role="img">\n<title>{escape(title)}</title>\n{STYLE}\n'
            f'<text class="title" x="10" y="20">{escape(title)}</text>\n' + "\n".join(marks) + "\n</svg>\n")
