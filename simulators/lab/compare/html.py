"""The report as one HTML file: no script, nothing loaded from elsewhere; for screens of any width and for print."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from simulators.lab.compare.figures import BY_KEY, ELEMENT_CPU, ELEMENT_MEMORY, FIGURES, GROUPS, POINTS, Figure
from simulators.lab.compare.model import CallMeasure, Path, Report
from simulators.lab.compare.plots import Series, distribution
from simulators.lab.compare.statistics import LEAST, Difference, Summary

_NONE = "–"
_HEADLINES = (
    "post_dial_delay_ms",
    "first_to_phone_ms",
    "delay_to_phone_ms",
    "delay_to_browser_ms",
    "pesq_to_phone",
    "pesq_to_browser",
)
_PER_CALL = (
    ("page_load_ms", "page"),
    ("log_in_ms", "log-in"),
    ("registration_ms", "regis- tration"),
    ("post_dial_delay_ms", "post-dial"),
    ("time_to_answer_ms", "answer"),
    ("ice_ms", "ICE"),
    ("dtls_ms", "DTLS"),
    ("first_to_phone_ms", "first packet →"),
    ("first_to_browser_ms", "first packet ←"),
    ("delay_to_phone_ms", "delay →"),
    ("delay_to_browser_ms", "delay ←"),
    ("jitter_to_phone_ms", "jitter →"),
    ("jitter_to_browser_ms", "jitter ←"),
    ("loss_to_phone_percent", "loss % →"),
    ("loss_to_browser_percent", "loss % ←"),
    ("pesq_to_phone", "PESQ →"),
    ("pesq_to_browser", "PESQ ←"),
)
_STYLE = """
:root { color-scheme: light; --ink: #1c2430; --soft: #5b6675; --line: #d9dee5; --paper: #fff; --shade: #f5f7f9;
  --ue: #1f5fbf; --edge: #b4540a; --bad: #b3261e; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1160px; padding: 28px 24px 48px; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", Arial, sans-serif; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .25rem; letter-spacing: -.01em; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .6rem; padding-bottom: .3rem; border-bottom: 2px solid var(--ink); }
h3 { font-size: 1rem; margin: 1.4rem 0 .5rem; }
p { margin: .4rem 0; max-width: 75ch; }
.soft, figcaption, dd, .lead { color: var(--soft); }
.bad { color: var(--bad); font-weight: 600; }
.key { display: flex; flex-wrap: wrap; gap: 4px 18px; padding: 0; list-style: none; }
.key span { display: inline-block; width: 11px; height: 11px; margin-right: 6px; }
.key .ue span { background: var(--ue); border-radius: 50%; } .key .edge span { background: var(--edge); }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(165px, 1fr)); gap: 10px; margin: 1rem 0; }
.card { border: 1px solid var(--line); border-radius: 8px; padding: 10px 12px; background: var(--shade); }
.card { display: flex; flex-direction: column; justify-content: space-between; }
.card h3 { margin: 0 0 4px; font-size: .85rem; font-weight: 600; }
.card p { margin: 0; font-variant-numeric: tabular-nums; }
.card b { font-size: 1.3rem; } .card .ue b { color: var(--ue); } .card .edge b { color: var(--edge); }
.card small { color: var(--soft); }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 330px), 1fr)); gap: 14px 22px; }
figure { margin: 0; break-inside: avoid; } figcaption { font-size: .85rem; } figcaption b { color: var(--ink); }
svg { display: block; width: 100%; max-width: 470px; height: auto; font: 11px system-ui, Arial, sans-serif; }
svg .grid { stroke: var(--line); } svg .tick { fill: var(--soft); } svg .name { fill: var(--ink); }
svg .ue { --c: var(--ue); } svg .edge { --c: var(--edge); }
svg .bar { fill: var(--c); opacity: .18; } svg .dot { fill: var(--c); opacity: .75; }
svg .median { stroke: var(--c); stroke-width: 2.5; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .87rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: 4px 0; }
th, td { padding: 4px 9px; text-align: right; border-bottom: 1px solid var(--line); vertical-align: top; }
th:first-child, td:first-child, .left { text-align: left; }
thead th { vertical-align: bottom; color: var(--soft); font-weight: 600; font-size: .8rem; }
tbody th { font-weight: 500; } tr.group th { padding-top: 12px; font-weight: 700; }
td small { color: var(--soft); white-space: nowrap; } td.sure { font-weight: 650; }
.stats td:not(:first-child) { white-space: nowrap; }
.calls { font-size: .76rem; } .calls th, .calls td { padding: 3px 6px; }
.calls .ue td:nth-child(2) { color: var(--ue); } .calls .edge td:nth-child(2) { color: var(--edge); }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 340px), 1fr));
  gap: 6px 28px; align-items: start; }
dl { margin: 0; } dt { font-weight: 600; margin-top: .55rem; } dd { margin: 0; max-width: 90ch; }
.facts { display: grid; grid-template-columns: max-content 1fr; gap: 2px 18px; font-size: .9rem; }
.facts dt { margin: 0; font-weight: 500; color: var(--soft); } .facts dd { color: var(--ink); overflow-wrap: anywhere; }
@media (max-width: 600px) { body { padding: 18px 14px 32px; font-size: 14px; } h1 { font-size: 1.4rem; }
  .cards { grid-template-columns: 1fr 1fr; } .facts { grid-template-columns: 1fr; } .facts dd { margin-bottom: 4px; }
  th, td { padding: 4px 5px; } .stats { font-size: .78rem; } .stats td small { display: block; white-space: normal; }
  .stats td:not(:first-child) { white-space: normal; } }
@media print { @page { size: A4; margin: 14mm; } body { padding: 0; max-width: none; font-size: 10pt; }
  h2 { break-after: avoid; margin-top: 1.4rem; } tr, .card { break-inside: avoid; } .wide { overflow: visible; }
  .plots { grid-template-columns: 1fr 1fr; } .calls { font-size: 6.4pt; } .calls th, .calls td { padding: 2px; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""


def render(report: Report) -> str:
    """Return the whole document."""
    paths = " and ".join(path.label for path in report.paths)
    parts = [
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
        f"<title>IMS calls from a browser: {escape(paths)}</title><style>{_STYLE}</style></head><body>",
        _header(report, paths),
        _summary(report),
        _plots(report),
        _conditions(report),
        _elements(report),
        _points(report),
        _calls(report),
        _definitions(),
        "</body></html>\n",
    ]
    return "\n".join(part for part in parts if part)


def _header(report: Report, paths: str) -> str:
    made = " and ".join(f"{len(report.of(path))} calls over the {path.label}" for path in report.paths)
    impaired = report.conditions.impairment
    access = (
        f"Impairment of the device’s access, each way: <b>{escape(impaired)}</b>." if impaired else "No impairment."
    )
    key = "".join(f'<li class="{path.value}"><span></span>{_what(path)}</li>' for path in report.paths)
    failed = [call for call in report.calls if call.error]
    problem = ""
    if not report.ok:
        reasons = [report.error] if report.error else []
        reasons += [f"call {call.number} ({call.path.label}): {call.error}" for call in failed]
        if len(report.calls) < report.wanted * len(report.paths):
            reasons.append(f"{report.wanted} calls per path were asked for")
        problem = f'<p class="bad">Incomplete: {escape("; ".join(reasons))}.</p>'
    return (
        f"<header><h1>IMS calls from a browser: {escape(paths)}</h1>"
        f'<p class="lead">{made}, the same call each time, alternating, from the same browser build. '
        f"{escape(report.created.replace('T', ' ').replace('+00:00', ' UTC'))}. {access}</p>"
        f'<ul class="key">{key}</ul>{problem}</header>'
    )


def _what(path: Path) -> str:
    return {
        Path.UE: "<b>UE path</b>: agent on the device, card, Gm to the P-CSCF",
        Path.EDGE: "<b>edge path</b>: plain device, network edge, Mw to the core",
    }[path]


def _summary(report: Report) -> str:
    both = len(report.paths) == 2
    cards = "".join(_card(report, BY_KEY[key]) for key in _HEADLINES)
    head = "".join(f"<th>{path.label}<br>median (p5 – p95), n</th>" for path in report.paths)
    head += "<th>edge − UE<br>[95 % interval]</th>" if both else ""
    rows = []
    for group in GROUPS:
        rows.append(f'<tr class="group"><th colspan="{2 + len(report.paths)}">{group}</th></tr>')
        for figure in (figure for figure in FIGURES if figure.group == group):
            cells = "".join(_distribution_cell(report, path, figure) for path in report.paths)
            cells += _difference_cell(report.difference(figure.key), figure) if both else ""
            unit = f" <small>{escape(figure.unit)}</small>" if figure.unit else ""
            rows.append(f'<tr><th scope="row">{escape(figure.title)}{unit}</th>{cells}</tr>')
    note = (
        "<p class='soft'>The difference is that of the medians; its interval is a bootstrap over the calls (percentile "
        f"method, 4000 resamples), given from {LEAST} calls a path on. Bold: the interval leaves out zero.</p>"
        if both
        else ""
    )
    return (
        f"<section><h2>Summary</h2><div class='cards'>{cards}</div>"
        f"<div class='wide'><table class='stats'><thead><tr><th>figure</th>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>{note}{_missing(report)}</section>"
    )


def _card(report: Report, figure: Figure) -> str:
    lines = []
    for path in report.paths:
        found = report.summary(path, figure.key)
        value = _NONE if found is None else f"{found.median:,.{figure.digits}f}"
        lines.append(f'<p class="{path.value}"><b>{value}</b> <small>{path.label}</small></p>')
    unit = f" <small>{escape(figure.unit)}</small>"
    return f"<div class='card'><h3>{escape(figure.title)}{unit}</h3>{''.join(lines)}</div>"


def _distribution_cell(report: Report, path: Path, figure: Figure) -> str:
    found = report.summary(path, figure.key)
    if found is None:
        return f"<td>{_NONE}</td>"
    low, high = _number(found.p5, figure.digits), _number(found.p95, figure.digits)
    return f"<td>{_number(found.median, figure.digits)} <small>({low} – {high}), {found.n}</small></td>"


def _difference_cell(apart: Difference | None, figure: Figure) -> str:
    if apart is None:
        return f"<td>{_NONE}</td>"
    value, low, high = (
        f"{number:+,.{figure.digits}f}".replace("-", "−") for number in (apart.value, apart.low, apart.high)
    )
    return f"<td{' class="sure"' if apart.significant else ''}>{value} <small>[{low}, {high}]</small></td>"


def _missing(report: Report) -> str:
    found = [
        f"<li>{path.label}: {escape(', '.join(figure.title for figure in figures))}: {escape(reason)}</li>"
        for path in report.paths
        for reason, figures in report.missing(path).items()
    ]
    return f"<h3>What was not measured, and why</h3><ul>{''.join(found)}</ul>" if found else ""


def _plots(report: Report) -> str:
    parts = []
    for group in GROUPS:
        drawn = []
        for figure in (figure for figure in FIGURES if figure.group == group):
            series = [Series(path.label, path.value, report.values(path, figure.key)) for path in report.paths]
            if len({value for one in series for value in one.values}) < 2:
                continue  # one value throughout: the table says it all
            if picture := distribution(figure.title, figure.unit, series):
                unit = f", {escape(figure.unit)}" if figure.unit else ""
                drawn.append(f"<figure><figcaption><b>{escape(figure.title)}</b>{unit}</figcaption>{picture}</figure>")
        if drawn:
            parts.append(f"<h3>{group}</h3><div class='plots'>{''.join(drawn)}</div>")
    if not parts:
        return ""
    legend = "Every mark is a call; the line is the median, the bar reaches from the 5th to the 95th percentile. "
    legend += "A figure that had one value throughout is not drawn."
    return f"<section><h2>Distributions</h2><p class='soft'>{legend}</p>{''.join(parts)}</section>"


def _conditions(report: Report) -> str:
    found = report.conditions
    facts = {"system": found.system, **found.machine, **found.versions, **found.notes}
    facts["impairment of the access"] = (
        f"{found.impairment}, each way, by {found.impairment_by}" if found.impairment else "none"
    )
    for path in report.paths:
        codecs = sorted({_codecs(call) for call in report.of(path) if call.codecs})
        if codecs:
            facts[f"codecs, {path.label}"] = "; ".join(codecs)
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items())
    return f"<section><h2>Conditions</h2><dl class='facts'>{rows}</dl></section>"


def _codecs(call: CallMeasure) -> str:
    sends, receives, phone = (call.codecs.get(name) or "?" for name in ("browser_sends", "browser_receives", "phone"))
    return f"browser {sends} → phone {phone} → browser {receives}"


def _elements(report: Report) -> str:
    tables = []
    for path in report.paths:
        rows = []
        for name in report.element_names(path):
            cpu, memory = report.element(path, name)
            rows.append([name, _spread(cpu, 1), _spread(memory, 0)])
        if rows:
            tables.append(_table(path.label, ("element", "CPU, % of a core", "memory, MB"), rows))
    if not tables:
        return ""
    return (
        f"<section><h2>What the elements use while both talk</h2><p class='soft'>Median (p5 – p95). CPU: {ELEMENT_CPU} "
        f"Memory: {ELEMENT_MEMORY}</p><div class='pair'>{''.join(tables)}</div></section>"
    )


def _points(report: Report) -> str:
    tables = []
    for path in report.paths:
        rows = []
        for name in report.point_names(path):
            found = report.point(path, name)
            rows.append([name, *(_spread(found[what], 0) for what in ("messages", "packets", "bytes"))])
        if rows:
            tables.append(_table(path.label, ("point", "messages", "packets", "bytes"), rows))
    if not tables:
        return ""
    reasons = dict.fromkeys(
        f"{call.path.label}, {name}: {traffic.reason}"
        for call in report.calls
        for name, traffic in call.points.items()
        if traffic.reason
    )
    said = f"<ul>{''.join(f'<li>{escape(reason)}</li>' for reason in reasons)}</ul>" if reasons else ""
    return (
        "<section><h2>Reference points</h2><p class='soft'>Per call, from the opening of the page to the call’s end, "
        f"both ways: median (p5 – p95).</p><div class='pair'>{''.join(tables)}</div>{said}</section>"
    )


def _calls(report: Report) -> str:
    if not report.calls:
        return ""
    head = "".join(f"<th>{title}</th>" for _, title in _PER_CALL)
    rows = []
    for call in report.calls:
        cells = "".join(f"<td>{_value(call, key)}</td>" for key, _ in _PER_CALL)
        if call.error:
            cells = f"<td class='left bad' colspan='{len(_PER_CALL)}'>{escape(call.error)}</td>"
        rows.append(f'<tr class="{call.path.value}"><td>{call.number}</td><td>{call.path.value}</td>{cells}</tr>')
    return (
        "<section><h2>Every call</h2><p class='soft'>Times in ms; → to the phone, ← to the browser.</p>"
        f"<div class='wide'><table class='calls'><thead><tr><th>call</th><th>path</th>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div></section>"
    )


def _definitions() -> str:
    figures = "".join(
        f"<dt>{escape(figure.title)}{f', {escape(figure.unit)}' if figure.unit else ''}</dt>"
        f"<dd>{escape(figure.definition)}</dd>"
        for figure in FIGURES
    )
    points = "".join(f"<dt>{name}</dt><dd>{escape(text)}</dd>" for name, text in POINTS.items())
    return (
        f"<section><h2>Definitions</h2><dl>{figures}</dl><h3>Reference points (3GPP TS 23.228, TR 23.701)</h3>"
        f"<dl>{points}</dl></section>"
    )


def _table(caption: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _value(call: CallMeasure, key: str) -> str:
    return _number(call.values.get(key), BY_KEY[key].digits)


def _spread(found: Summary | None, digits: int) -> str:
    if found is None:
        return _NONE
    low, high = _number(found.p5, digits), _number(found.p95, digits)
    spread = f" <small>({low} – {high})</small>" if low != high else ""
    return f"{_number(found.median, digits)}{spread}"


def _number(value: float | None, digits: int) -> str:
    return _NONE if value is None else f"{value:,.{digits}f}".replace("-", "−")
