//! The report as one page that needs nothing but itself.

use serde_json::Value;

use super::bars::{BARS, Bar, Reading, Unit};
use super::data::{Case, Data, Push, Rpc, Set};
use super::statistics::{Estimate, Verdict};
use super::{chart, machine};
use crate::pictures::svg::escape;

const STYLE: &str = "\
body{font:15px/1.5 -apple-system,'Segoe UI',Helvetica,Arial,'DejaVu Sans',sans-serif;color:var(--ink);background:var(--paper);\
max-width:70rem;margin:0 auto;padding:1.5rem}\
h1{font-size:1.7rem;margin:.2rem 0}h2{font-size:1.25rem;margin:2.4rem 0 .5rem;border-bottom:1px solid var(--grid);padding-bottom:.2rem}\
h3{font-size:1.02rem;margin:1.6rem 0 .4rem}\
p,dd,.quiet{color:var(--quiet)}code{font:13px ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace}\
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;margin:.6rem 0}\
.wide{overflow-x:auto}th,td{padding:.28rem .6rem;border-bottom:1px solid var(--grid);text-align:right;vertical-align:top}\
th{font-weight:600;color:var(--quiet)}thead th{background:var(--band)}\
td{white-space:nowrap}td.text,th.text{text-align:left;white-space:normal}td.met,td.missed{white-space:nowrap}tr.first td,tr.first th{border-top:2px solid var(--grid)}tr.ours td{font-weight:600}\
.met{color:var(--good);font-weight:600}.missed{color:var(--bad);font-weight:600}\
dl{display:grid;grid-template-columns:max-content 1fr;gap:.1rem 1rem}dt{font-weight:600}dd{margin:0}\
svg{max-width:100%;height:auto}";

/// Everything that was measured, and what was not.
pub(super) fn page(data: &Data, commands: &[String]) -> String {
    let mut body = String::from("<h1>What Sidestep costs</h1>\n");
    body += &environment(data, commands);
    body += &bars(data);
    body += &part("Calls", "rpc", data.rpc.as_ref().map(rpc));
    body += &part("Counts", "counts", data.counts.as_ref().map(counts));
    body += &part(
        "Pushes of the control plane",
        "push",
        data.push.as_ref().map(push),
    );
    body += &part("Single steps", "micro", data.micro.as_ref().map(values));
    body += &part("Memory", "memory", data.memory.as_ref().map(values));
    body += &part(
        "Footprint",
        "footprint",
        data.footprint.as_ref().map(values),
    );
    let dress = chart::STYLE;
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><meta name=\"color-scheme\" content=\"light dark\">\
         <title>What Sidestep costs</title><style>{dress}{STYLE}</style></head>\n<body>\n{body}</body></html>\n"
    )
}

fn environment(data: &Data, commands: &[String]) -> String {
    let lines = machine::describe(data).into_iter();
    let lines =
        lines.map(|(name, value)| format!("<dt>{}</dt><dd>{}</dd>", escape(&name), escape(&value)));
    let lines: String = lines.collect();
    let commands = commands
        .iter()
        .map(|command| format!("<code>{}</code>", escape(command)));
    let commands: Vec<_> = commands.collect();
    format!(
        "<p>By {}. Ratios are formed within a round, then the median is taken and its 95 % interval by bootstrap. A bar by the clock \
         counts as met if the interval reaches down to it.</p>\n<dl>{lines}</dl>\n",
        commands.join(", ")
    )
}

fn bars(data: &Data) -> String {
    let head = "<tr><th>#</th><th class=\"text\">what</th><th class=\"text\">where</th><th>measured</th><th>95 %</th>\
                <th>bar</th><th>moonshot</th><th class=\"text\">verdict</th></tr>";
    let rows: String = BARS
        .iter()
        .map(|bar| rows(bar, &bar.readings(data)))
        .collect();
    format!(
        "<h2>The bars</h2>\n<div class=\"wide\"><table><thead>{head}</thead><tbody>\n{rows}</tbody></table></div>\n"
    )
}

/// A bar's rows; its name stands in the first.
fn rows(bar: &Bar, readings: &[Reading]) -> String {
    let span = readings.len();
    let owner = if bar.is_control_plane {
        "<br><span class=\"quiet\">control plane</span>"
    } else {
        ""
    };
    let first = format!(
        "<th rowspan=\"{span}\">{}</th><td class=\"text\" rowspan=\"{span}\">{}{owner}</td>",
        bar.number,
        escape(bar.what)
    );
    let mut rows = String::new();
    for (at, reading) in readings.iter().enumerate() {
        let (class, name) = if at == 0 {
            ("first", &*first)
        } else {
            ("", "")
        };
        let moonshot = reading
            .moonshot
            .map_or_else(String::new, |at| limit(at, reading.unit));
        rows += &format!(
            "<tr class=\"{class}\">{name}<td class=\"text\">{}</td><td>{}</td><td>{}</td><td>{}</td><td>{moonshot}</td>{}</tr>\n",
            escape(&reading.place),
            reading
                .measured
                .map_or_else(String::new, |of| number(of.median, reading.unit)),
            reading
                .measured
                .map_or_else(String::new, |of| interval(of, reading.unit)),
            limit(reading.bar, reading.unit),
            verdict(reading.verdict()),
        );
    }
    rows
}

fn verdict(verdict: Option<Verdict>) -> String {
    let Some(verdict) = verdict else {
        return "<td class=\"text quiet\">not measured</td>".to_owned();
    };
    let (class, sign) = match verdict {
        Verdict::Missed(_) => ("missed", '✗'),
        _ => ("met", '✓'),
    };
    format!("<td class=\"text {class}\">{sign} {verdict}</td>")
}

fn limit(value: f64, unit: Unit) -> String {
    format!("≤ {}", number(value, unit))
}

/// A number as its unit is read.
pub(super) fn number(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Ratio => format!("{value:.2}"),
        Unit::Instructions => grouped(value),
        Unit::Allocations => format!("{value:.1}"),
        Unit::Kib => format!("{value:.1} KiB"),
    }
}

fn interval(of: Estimate, unit: Unit) -> String {
    of.interval.map_or_else(String::new, |(low, high)| {
        format!("{} – {}", number(low, unit), number(high, unit))
    })
}

/// Groups of three digits.
fn grouped(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut grouped = String::from(if value <= -0.5 { "-" } else { "" });
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// A part of the report, or that it is missing.
fn part(title: &str, name: &str, content: Option<String>) -> String {
    let content = content.unwrap_or_else(|| {
        format!("<p>Not measured: <code>cargo xtask bench-report --only {name}</code>.</p>\n")
    });
    format!("<h2>{title}</h2>\n{content}")
}

fn rpc(rpc: &Rpc) -> String {
    rpc.sets.iter().map(set).collect()
}

fn set(set: &Set) -> String {
    let pictures = [
        chart::latency(set, &chart::PAGE),
        chart::cpu(set, &chart::PAGE),
    ];
    let pictures: String = pictures.into_iter().flatten().collect();
    let rows: String = set.cases.iter().map(case).collect();
    format!(
        "<h3>{} <span class=\"quiet\">({})</span></h3>\n{pictures}\n<div class=\"wide\"><table><thead><tr><th class=\"text\">case</th>\
         <th>calls/s</th><th>p50 µs</th><th>p99 µs</th><th>p99.9 µs</th><th>client µs</th><th>proxies µs</th><th>server µs</th>\
         <th>total µs</th><th>failed</th><th>rounds</th></tr></thead><tbody>\n{rows}</tbody></table></div>\n",
        escape(&set.describe()),
        escape(&set.name),
    )
}

fn case(case: &Case) -> String {
    let class = if case.name.starts_with("sidestep") {
        "ours"
    } else {
        ""
    };
    let name = escape(&case.name);
    let rate = grouped(case.median(|round| round.calls / round.seconds));
    let times = [
        case.median(|round| round.p50_us),
        case.median(|round| round.p99_us),
        case.median(|round| round.p999_us),
    ];
    let times: String = times.map(|us| format!("<td>{us:.0}</td>")).concat();
    let cpu = [
        case.median(|round| round.cpu_us.client),
        case.median(|round| round.cpu_us.proxy),
        case.median(|round| round.cpu_us.server),
        case.median(|round| round.cpu_us.total()),
    ];
    let cpu: String = cpu.map(|us| format!("<td>{us:.1}</td>")).concat();
    let failed: f64 = case.rounds.iter().map(|round| round.failed).sum();
    let rounds = case.rounds.len();
    format!(
        "<tr class=\"{class}\"><td class=\"text\">{name}</td><td>{rate}</td>{times}{cpu}<td>{failed:.0}</td><td>{rounds}</td></tr>\n"
    )
}

fn counts(counts: &Value) -> String {
    let cases = counts["cases"].as_array().into_iter().flatten();
    let rows = cases.map(|case| {
        let number = |key: &str| case[key].as_f64().map_or_else(String::new, grouped);
        let text = |key: &str| {
            case[key]
                .as_f64()
                .map_or_else(String::new, |n| format!("{n:.2}"))
        };
        format!(
            "<tr><td class=\"text\">{}</td><td>{}</td><td>{}</td><td>{}</td></tr>\n",
            escape(case["case"].as_str().unwrap_or_default()),
            number("instructions"),
            case["allocations"]
                .as_f64()
                .map_or_else(String::new, |n| format!("{n:.1}")),
            text("instructions_of_tonic"),
        )
    });
    let rows: String = rows.collect();
    let balancing = values(&counts["balancing"]);
    format!(
        "<div class=\"wide\"><table><thead><tr><th class=\"text\">case</th><th>instructions</th><th>allocations</th><th>of tonic</th></tr></thead>\
         <tbody>\n{rows}</tbody></table></div>\n{balancing}"
    )
}

fn push(push: &Push) -> String {
    let mut rows = String::new();
    for set in &push.sets {
        for (at, server) in set.servers.iter().enumerate() {
            let ours = if server.name == "sidestep" {
                " ours"
            } else {
                ""
            };
            let first = if at == 0 { "first" } else { "" };
            let cell = |value: f64| format!("<td>{value:.1}</td>");
            rows += &format!(
                "<tr class=\"{first}{ours}\"><td class=\"text\">{}</td><td class=\"text\">{}</td><td>{}</td><td>{} × {}</td>{}{}{}{}{}{}</tr>\n",
                escape(&server.name),
                escape(&set.protocol),
                set.streams,
                set.clusters,
                set.endpoints,
                cell(server.median(|r| r.sync_cpu_us)),
                cell(server.median(|r| r.push_cpu_us)),
                cell(server.median(|r| r.p50_ms)),
                cell(server.median(|r| r.p99_ms)),
                cell(server.median(|r| r.bytes)),
                cell(server.median(|r| r.rss_kib)),
            );
        }
    }
    format!(
        "<div class=\"wide\"><table><thead><tr><th class=\"text\">server</th><th class=\"text\">protocol</th><th>streams</th>\
         <th>clusters × endpoints</th><th>sync CPU µs/client</th><th>push CPU µs/client</th><th>p50 ms</th><th>p99 ms</th>\
         <th>bytes/client</th><th>RSS KiB/stream</th></tr></thead><tbody>\n{rows}</tbody></table></div>\n"
    )
}

/// Any other part: lists of objects as tables, the rest as names and values.
fn values(value: &Value) -> String {
    let mut single = String::new();
    let mut tables = String::new();
    for (name, value) in value.as_object().into_iter().flatten() {
        let title = escape(&name.replace('_', " "));
        match value {
            Value::Array(rows) if rows.iter().all(Value::is_object) && !rows.is_empty() => {
                tables += &format!("<h3>{title}</h3>\n{}", table(rows));
            }
            Value::Object(_) => {
                tables += &format!("<h3>{title}</h3>\n{}", table(std::slice::from_ref(value)));
            }
            other => single += &format!("<dt>{title}</dt><dd>{}</dd>", escape(&plain(other))),
        }
    }
    if single.is_empty() {
        tables
    } else {
        format!("<dl>{single}</dl>\n{tables}")
    }
}

/// Objects that have the same keys; those inside them become columns of their own.
fn table(rows: &[Value]) -> String {
    let rows: Vec<Vec<(String, String)>> = rows.iter().map(columns).collect();
    let mut names: Vec<&String> = Vec::new();
    for (name, _) in rows.iter().flatten() {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let head = names
        .iter()
        .map(|name| format!("<th>{}</th>", escape(&name.replace('_', " "))));
    let head: String = head.collect();
    let line = |row: &Vec<(String, String)>| {
        let cell = |name: &&&String| {
            let found = row.iter().find(|(of, _)| of == **name);
            format!(
                "<td>{}</td>",
                found.map_or_else(String::new, |(_, value)| escape(value))
            )
        };
        let cells: String = names.iter().map(|name| cell(&name)).collect();
        format!("<tr>{cells}</tr>\n")
    };
    let lines: String = rows.iter().map(line).collect();
    format!(
        "<div class=\"wide\"><table><thead><tr>{head}</tr></thead><tbody>\n{lines}</tbody></table></div>\n"
    )
}

fn columns(row: &Value) -> Vec<(String, String)> {
    let mut columns = Vec::new();
    for (name, value) in row.as_object().into_iter().flatten() {
        match value {
            Value::Object(inner) => {
                let inner = inner.iter();
                columns.extend(inner.map(|(key, value)| (format!("{name} {key}"), plain(value))));
            }
            other => columns.push((name.clone(), plain(other))),
        }
    }
    columns
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        Value::Array(all) => all.iter().map(plain).collect::<Vec<_>>().join(", "),
        Value::Number(number) => match number.as_f64() {
            Some(float) if float.fract() != 0.0 && float.abs() < 100.0 => format!("{float:.2}"),
            Some(float) => grouped(float),
            None => number.to_string(),
        },
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn the_page_is_whole_and_needs_nothing_else() {
        let page = page(&sample::data(), &["cargo xtask bench-report".to_owned()]);
        for bar in &BARS {
            assert!(page.contains(&*escape(bar.what)), "{}", bar.number);
        }
        for wanted in [
            "cargo xtask bench-report</code>",
            "missed by",
            "not measured",
            "plaintext, 128 B, unary, 16 in flight",
            "20000 calls/s, 50 % of saturation",
            "prefers-color-scheme:dark",
            "43,582",
        ] {
            assert!(page.contains(wanted), "{wanted}");
        }
        for unwanted in ["<script", "http://", "https://", "NaN", "undefined"] {
            let namespace = "http://www.w3.org/2000/svg";
            assert!(
                !page.replace(namespace, "").contains(unwanted),
                "{unwanted}"
            );
        }
    }

    #[test]
    fn a_part_that_was_not_measured_is_said() {
        let page = page(&Data::default(), &[]);
        for name in ["rpc", "counts", "push", "micro", "memory", "footprint"] {
            assert!(page.contains(&format!("--only {name}</code>")), "{name}");
        }
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!(grouped(1_234_567.4), "1,234,567");
        assert_eq!(grouped(-123.0), "-123");
        assert_eq!(number(0.804, Unit::Ratio), "0.80");
        assert_eq!(number(24.52, Unit::Kib), "24.5 KiB");
    }
}
