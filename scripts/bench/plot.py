#!/usr/bin/env python3
"""Draw what build/prefixd-bench measured: four charts in one SVG file, from one CSV file.

    scripts/bench/plot.py build/bench/MODEL-DTYPE.csv docs/sharing.svg

Medians are drawn. Needs nothing but Python; a sweep that was not measured leaves its chart out.
"""
import argparse
import collections
import csv
import html
import math

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 470, 320, 56, 92, 46, 44
COLOURS = ["#9ecae1", "#6baed6", "#4292c6", "#2171b5", "#08519c", "#08306b", "#636363", "#252525"]
MIXES = {"distinct": "#bdbdbd", "uniform": "#9ecae1", "skewed": "#4292c6", "identical": "#08519c"}

# ---- drawing -----------------------------------------------------------------------------------------


def line(x1, y1, x2, y2, more):
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" {more}/>'


def text(x, y, words, more=""):
    return f'<text x="{x:.1f}" y="{y:.1f}" {more}>{html.escape(words)}</text>'


def short(v):
    return f"{v:.0f}" if v >= 10 or v == int(v) else f"{v:.2g}"


class Scale:
    """Places of values between two ends of the paper, by their logarithms or not."""

    def __init__(self, low, high, start, end, is_log):
        self.form = math.log2 if is_log else float
        self.low, self.high, self.is_log = low, high, is_log
        self.start, self.end = start, end

    def __call__(self, v):
        low, high = self.form(self.low), self.form(self.high)
        return self.start + (self.form(v) - low) / (high - low) * (self.end - self.start)

    def ticks(self):
        if self.is_log:
            powers = range(math.ceil(math.log2(self.low)), math.floor(math.log2(self.high)) + 1)
            step = -(-len(powers) // 8)
            return [2.0 ** p for p in powers if p % step == 0]
        step = 10 ** math.floor(math.log10(self.high))
        while self.high / step < 4:
            step /= 2
        return [i * step for i in range(int(self.high / step) + 1)]


class Chart:
    """One chart; its own coordinates begin in its upper left corner."""

    def __init__(self, title, x_label, y_label):
        self.parts = [text(LEFT, 18, title, 'class="title"'),
                      text(LEFT, TOP - 10, y_label, 'class="soft"'),
                      text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, x_label,
                           'class="soft" text-anchor="middle"')]
        self.taken = []  # heights of labels at the right

    def y_axis(self, low, high, is_log=False):
        self.y = Scale(low, high, HEIGHT - BOTTOM, TOP, is_log)
        for v in self.y.ticks():
            self.parts.append(line(LEFT, self.y(v), WIDTH - RIGHT, self.y(v), 'class="grid"'))
            self.parts.append(text(LEFT - 6, self.y(v) + 4, short(v), 'text-anchor="end"'))

    def x_axis(self, values):
        """Logarithmic, with a tick at every value; 0 stands a step before the least of the others."""
        self.values = sorted(values)
        above = [v for v in self.values if v > 0]
        self.least = above[0] / 4 if self.values[0] == 0 else above[0]
        self.x = Scale(self.least, max(above[-1], above[0] * 2), LEFT + 8, WIDTH - RIGHT, True)
        for v in self.values:
            self.parts.append(text(self.place(v), HEIGHT - BOTTOM + 16, short(v),
                                   'text-anchor="middle"'))

    def place(self, v):
        return self.x(max(v, self.least))

    def label(self, x, y, words, colour):
        while any(abs(y - other) < 11 for other in self.taken):
            y -= 1
        self.taken.append(y)
        self.parts.append(text(x + 5, y + 4, words, f'fill="{colour}"'))

    def curve(self, points, colour, words, dashed=False):
        places = [(self.place(x), self.y(y)) for x, y in sorted(points)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        dash = ' stroke-dasharray="5 3"' if dashed else ""
        self.parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" '
                          f'stroke-width="1.8"{dash}/>')
        self.parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.4" fill="{colour}"/>'
                       for x, y in places]
        self.label(*places[-1], words, colour)

    def bar(self, x, width, value, colour):
        y = self.y(value)
        self.parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" '
                          f'height="{HEIGHT - BOTTOM - y:.1f}" fill="{colour}"/>')
        self.parts.append(text(x + width / 2, y - 3, short(value),
                               'text-anchor="middle" font-size="9"'))


# ---- charts ------------------------------------------------------------------------------------------


def by_rows(lines):
    found = collections.defaultdict(list)
    for r in lines:
        found[r["rows"]].append(r)
    return sorted(found.items())


def top(lines):
    return 1.08 * max(r["median"] for r in lines)


def decode_chart(lines):
    chart = Chart("Rows that decode at once", "rows", "tok/s")
    chart.y_axis(0, top(lines))
    chart.x_axis({r["rows"] for r in lines})
    for i, context in enumerate(sorted({r["context"] for r in lines})):
        points = [(r["rows"], r["median"]) for r in lines if r["context"] == context]
        chart.curve(points, COLOURS[4 - i % 4], f"{context} tokens each")
    return chart


def sharing_chart(lines):
    """tok/s over the length of the prefix: read once for all rows, or a copy by each."""
    chart = Chart("A prefix that all rows read", "tokens of the prefix", "tok/s")
    most = [rows for rows, _ in by_rows(lines)][-2:]
    lines = [r for r in lines if r["rows"] in most]
    chart.y_axis(0, top(lines))
    chart.x_axis({r["prefix"] for r in lines})
    for rows, mine in by_rows(lines):
        colour = COLOURS[2] if rows == most[0] else COLOURS[4]
        for variant, words in (("shared", "shared"), ("copies", "a copy each")):
            points = [(r["prefix"], r["median"]) for r in mine if r["variant"] in ("rows", variant)]
            chart.curve(points, colour, f"{rows}: {words}", dashed=variant == "copies")
    return chart


def gain_chart(lines):
    """Shared over copies, where both were measured: below 1.05 sharing does not help."""
    compared = {(r["rows"], r["prefix"]) for r in lines if r["variant"] == "copies"}
    lines = [r for r in lines
             if r["variant"] == "shared" and (r["rows"], r["prefix"]) in compared]
    chart = Chart("What sharing gains", "tokens of the prefix", "times a copy for each row")
    chart.y_axis(min(0.8, min(r["ratio"] for r in lines)), 1.2 * max(r["ratio"] for r in lines), True)
    chart.x_axis({r["prefix"] for r in lines})
    chart.parts.append(line(LEFT, chart.y(1.05), WIDTH - RIGHT, chart.y(1.05), 'class="mark"'))
    chart.parts.append(text(LEFT + 4, chart.y(1.05) - 4, "1.05", 'class="soft"'))
    for i, (rows, mine) in enumerate(by_rows(lines)):
        chart.curve([(r["prefix"], r["ratio"]) for r in mine], COLOURS[i % len(COLOURS)],
                    f"{rows} rows")
    return chart


def mixes_chart(lines):
    """tok/s by popularity, a group of bars for each length."""
    rows = max(r["rows"] for r in lines)
    lines = [r for r in lines if r["rows"] == rows]
    lengths = sorted({r["prefix"] for r in lines})
    chart = Chart(f"Adapters by popularity, {rows} rows", "tokens of each adapter", "tok/s")
    chart.y_axis(0, top(lines))
    group = (WIDTH - LEFT - RIGHT) / len(lengths)
    width = group / (len(MIXES) + 1)
    for g, length in enumerate(lengths):
        at = LEFT + g * group + width / 2
        for i, (mix, colour) in enumerate(MIXES.items()):
            for r in lines:
                if r["prefix"] == length and r["variant"] == mix:
                    chart.bar(at + i * width, width - 2, r["median"], colour)
        chart.parts.append(text(at + 2 * width, HEIGHT - BOTTOM + 16, short(length),
                                'text-anchor="middle"'))
    for i, (mix, colour) in enumerate(MIXES.items()):
        chart.parts.append(text(WIDTH - RIGHT + 10, TOP + 14 + 15 * i, mix, f'fill="{colour}"'))
    return chart


# ---- the file ----------------------------------------------------------------------------------------

STYLE = (".title{font-size:13px;font-weight:bold}.soft{fill:#777}.grid{stroke:#e5e5e5}"
         ".mark{stroke:#d62728;stroke-dasharray:2 3}")


def read(path):
    with open(path, encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    for r in lines:
        for name in ("rows", "context", "prefix", "prefixes", "threads"):
            r[name] = int(r[name])
        for name in ("best", "median", "ratio"):
            r[name] = float(r[name])
    return lines


def heading(lines):
    places = collections.Counter(r["place"] for r in lines).most_common()
    first = lines[0]
    return (f"{first['model']}, {first['dtype']}, {first['isa']} kernels, {first['threads']} threads; "
            "probed: " + ", ".join(f"{place} {n} times" for place, n in places))


def draw(lines):
    charts = []
    for sweep, needed, chart in (("decode", "rows", decode_chart), ("sharing", "shared", sharing_chart),
                                 ("sharing", "copies", gain_chart), ("mixes", "distinct", mixes_chart)):
        mine = [r for r in lines if r["sweep"] == sweep]
        if any(r["variant"] == needed for r in mine):
            charts.append(chart(mine))
    height = 34 + HEIGHT * -(-len(charts) // 2)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{2 * WIDTH}" height="{height}" '
           f'viewBox="0 0 {2 * WIDTH} {height}" font-family="sans-serif" font-size="11" '
           f'fill="#333"><style>{STYLE}</style>',
           f'<rect width="{2 * WIDTH}" height="{height}" fill="#fff"/>',
           text(12, 20, heading(lines), 'class="soft"')]
    for i, chart in enumerate(charts):
        out.append(f'<g transform="translate({i % 2 * WIDTH} {34 + i // 2 * HEIGHT})">')
        out += [*chart.parts, "</g>"]
    return "\n".join([*out, "</svg>", ""])


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("csv")
    ap.add_argument("svg")
    args = ap.parse_args()
    lines = read(args.csv)
    if not lines:
        raise SystemExit(f"{args.csv}: nothing was measured")
    with open(args.svg, "w", encoding="utf-8") as file:
        file.write(draw(lines))


if __name__ == "__main__":
    main()
