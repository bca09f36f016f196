//! The two pictures of a set of cases: latency by percentile, and whose CPU a call takes.

use std::fmt::Write as _;

use super::data::{Case, Cpu, Set};
use crate::pictures::svg::{Canvas, SANS};

const WIDTH: f64 = 860.0;

/// Colours, as values of CSS properties.
#[derive(Clone, Copy)]
pub(super) struct Palette {
    ink: &'static str,
    quiet: &'static str,
    grid: &'static str,
    /// Painted under everything, if it is not the page's.
    paper: Option<&'static str>,
    families: [&'static str; 6],
    /// Client, proxy, server.
    parts: [&'static str; 3],
}

/// Follows the page, which has a light and a dark dress; see [`STYLE`].
pub(super) const PAGE: Palette = Palette {
    ink: "var(--ink)",
    quiet: "var(--quiet)",
    grid: "var(--grid)",
    paper: None,
    families: [
        "var(--f0)",
        "var(--f1)",
        "var(--f2)",
        "var(--f3)",
        "var(--f4)",
        "var(--f5)",
    ],
    parts: ["var(--p0)", "var(--p1)", "var(--p2)"],
};

/// For a picture that stands alone, on white.
pub(super) const PRINT: Palette = Palette {
    ink: "#1b1f24",
    quiet: "#57606a",
    grid: "#d8dee4",
    paper: Some("#ffffff"),
    families: [
        "#0059b3", "#c25e00", "#8a3ffc", "#00755e", "#b3005e", "#6b7280",
    ],
    parts: ["#0072b2", "#cc79a7", "#8a939c"],
};

/// The page's properties in both dresses. Families keep apart for the colour-blind: they differ in
/// lightness too, and every line and bar is named where it is.
pub(super) const STYLE: &str = "\
:root{--ink:#1b1f24;--quiet:#57606a;--grid:#d8dee4;--paper:#ffffff;--band:#f6f8fa;\
--f0:#0059b3;--f1:#c25e00;--f2:#8a3ffc;--f3:#00755e;--f4:#b3005e;--f5:#6b7280;\
--p0:#0072b2;--p1:#cc79a7;--p2:#8a939c;--good:#116329;--bad:#a40e26}\
@media(prefers-color-scheme:dark){:root{--ink:#e6edf3;--quiet:#9da7b3;--grid:#30363d;--paper:#0d1117;--band:#161b22;\
--f0:#58a6ff;--f1:#f0a04b;--f2:#c297ff;--f3:#3fc7a4;--f4:#ff7eb6;--f5:#9da7b3;\
--p0:#58a6ff;--p1:#e08fbf;--p2:#7d8590;--good:#56d364;--bad:#ff7b72}}";

/// Whose client it is: cases of one family have one colour.
fn family(name: &str) -> usize {
    let families = ["sidestep", "tonic-xds", "tonic", "grpc-go", "envoy"];
    let known = families.iter().position(|family| name.starts_with(family));
    // tonic-xds is asked before tonic, whose colour comes first.
    match known {
        Some(0) => 0,
        Some(1) => 2,
        Some(2) => 1,
        Some(at) => at,
        None => 5,
    }
}

/// How the lines of one family are told apart.
const DASHES: [&str; 4] = ["none", "7 4", "2 3", "9 3 2 3"];

/// Latency over percentile, both so that each step is a multiple. `None`: no case has a curve.
pub(super) fn latency(set: &Set, palette: &Palette) -> Option<String> {
    let lines: Vec<(&str, Vec<(f64, f64)>)> = set
        .cases
        .iter()
        .map(|case| (case.name.as_str(), case.curve()))
        .filter(|(_, curve)| curve.len() > 1)
        .collect();
    let points = || lines.iter().flat_map(|(_, curve)| curve.iter().copied());
    let least = points().map(|(_, us)| us).reduce(f64::min)?;
    let most = points().map(|(_, us)| us).reduce(f64::max)?;
    let first = points().map(|(p, _)| nines(p)).reduce(f64::min)?;
    let last = points().map(|(p, _)| nines(p)).reduce(f64::max)?;
    let frame = Frame {
        left: 74.0,
        right: WIDTH - 168.0,
        top: 44.0,
        bottom: 372.0,
        x: (first, last),
        y: (least.log10() - 0.06, most.log10() + 0.06),
    };
    let mut canvas = Canvas::new(WIDTH, 424.0);
    begin(
        &mut canvas,
        palette,
        &title("Latency by percentile", set),
        424.0,
    );
    frame.axes(&mut canvas, palette);
    let mut labels = Vec::new();
    let mut drawn = [0; 6];
    for (name, curve) in &lines {
        let family = family(name);
        let colour = palette.families[family];
        let dash = DASHES[drawn[family] % DASHES.len()];
        drawn[family] += 1;
        let width = if family == 0 { 3.2 } else { 1.8 };
        canvas.path(
            &frame.line(curve),
            &format!(r#"style="fill:none;stroke:{colour};stroke-width:{width};stroke-dasharray:{dash};stroke-linejoin:round""#),
        );
        let end = curve.last().map_or(frame.bottom, |(_, us)| frame.at_y(*us));
        labels.push((end, *name, colour, family == 0));
    }
    spread(&mut labels, 16.0, frame.bottom);
    for (y, name, colour, is_ours) in labels {
        let weight = if is_ours { 700 } else { 400 };
        canvas.text(
            frame.right + 10.0,
            y + 4.0,
            &format!(r#"style="font:{weight} 13px {SANS};fill:{colour}""#),
            name,
        );
    }
    Some(canvas.finish(&title("Latency by percentile", set), "", ""))
}

/// How many nines a percentile has: 90 is one, 99 is two.
fn nines(percentile: f64) -> f64 {
    -(1.0 - percentile.clamp(0.0, 99.9999) / 100.0).log10()
}

/// Moves labels down until none covers another, and up again if the last would leave the picture.
fn spread(labels: &mut [(f64, &str, &str, bool)], apart: f64, bottom: f64) {
    labels.sort_by(|a, b| a.0.total_cmp(&b.0));
    for at in 1..labels.len() {
        labels[at].0 = labels[at].0.max(labels[at - 1].0 + apart);
    }
    let mut limit = bottom;
    for label in labels.iter_mut().rev() {
        label.0 = label.0.min(limit);
        limit = label.0 - apart;
    }
}

/// Where the values lie on the picture.
struct Frame {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
    /// Nines.
    x: (f64, f64),
    /// Powers of ten of microseconds.
    y: (f64, f64),
}

impl Frame {
    fn at_x(&self, percentile: f64) -> f64 {
        let (from, to) = self.x;
        self.left + (nines(percentile) - from) / (to - from).max(0.01) * (self.right - self.left)
    }

    fn at_y(&self, us: f64) -> f64 {
        let (from, to) = self.y;
        self.bottom - (us.log10() - from) / (to - from).max(0.01) * (self.bottom - self.top)
    }

    fn line(&self, curve: &[(f64, f64)]) -> String {
        let mut d = String::new();
        for (percentile, us) in curve {
            let command = if d.is_empty() { 'M' } else { 'L' };
            let (x, y) = (self.at_x(*percentile), self.at_y(*us));
            // Cannot fail: the target is a string.
            let _ = write!(d, "{command}{x:.1} {y:.1}");
        }
        d
    }

    fn axes(&self, canvas: &mut Canvas, palette: &Palette) {
        let grid = format!(r#"style="stroke:{};stroke-width:1""#, palette.grid);
        let style = |anchor| {
            format!(
                r#"style="font:12px {SANS};fill:{};text-anchor:{anchor}""#,
                palette.quiet
            )
        };
        for percentile in [0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 99.999] {
            let at = nines(percentile);
            if at < self.x.0 - 0.01 || at > self.x.1 + 0.01 {
                continue;
            }
            let x = self.at_x(percentile);
            canvas.path(&format!("M{x:.1} {} V{}", self.top, self.bottom), &grid);
            canvas.text(
                x,
                self.bottom + 20.0,
                &style("middle"),
                &format!("{percentile} %"),
            );
        }
        for us in ticks(self.y) {
            let y = self.at_y(us);
            canvas.path(&format!("M{} {y:.1} H{}", self.left, self.right), &grid);
            canvas.text(self.left - 8.0, y + 4.0, &style("end"), &duration(us));
        }
        let middle = f64::midpoint(self.left, self.right);
        canvas.text(
            middle,
            self.bottom + 40.0,
            &style("middle"),
            "of calls are answered within",
        );
    }
}

/// 1, 2 and 5 of each power of ten that lie in the range.
fn ticks((from, to): (f64, f64)) -> Vec<f64> {
    let powers = -2..9;
    let all = powers.flat_map(|power| [1.0, 2.0, 5.0].map(|digit| digit * 10_f64.powi(power)));
    all.filter(|us| (from..=to).contains(&us.log10())).collect()
}

/// Microseconds in the unit that reads best.
fn duration(us: f64) -> String {
    match us {
        us if us < 1_000.0 => format!("{us} µs"),
        us if us < 1_000_000.0 => format!("{} ms", us / 1_000.0),
        us => format!("{} s", us / 1_000_000.0),
    }
}

const ROW: f64 = 26.0;

/// CPU of client, proxy and server for each call, the medians of all rounds. `None`: no cases.
pub(super) fn cpu(set: &Set, palette: &Palette) -> Option<String> {
    let rows: Vec<(&str, Cpu)> = set
        .cases
        .iter()
        .map(|case| (&*case.name, cpu_of(case)))
        .collect();
    let most = rows.iter().map(|(_, cpu)| cpu.total()).reduce(f64::max)?;
    let (left, right, top) = (150.0, WIDTH - 70.0, 84.0);
    let height = top + ROW * f64::from(u32::try_from(rows.len()).ok()?) + 14.0;
    let mut canvas = Canvas::new(WIDTH, height);
    begin(
        &mut canvas,
        palette,
        &title("CPU of a call, µs", set),
        height,
    );
    legend(&mut canvas, palette);
    let mut y = top;
    for (name, cpu) in rows {
        let weight = if family(name) == 0 { 700 } else { 400 };
        let text = |anchor: &str| {
            format!(
                r#"style="font:{weight} 13px {SANS};fill:{};text-anchor:{anchor}""#,
                palette.ink
            )
        };
        canvas.text(left - 10.0, y + 14.0, &text("end"), name);
        let mut x = left;
        for (part, us) in [cpu.client, cpu.proxy, cpu.server].into_iter().enumerate() {
            let width = us / most * (right - left);
            if width > 0.0 {
                let style = format!(r#"style="fill:{}""#, palette.parts[part]);
                // The gap keeps neighbours apart where their colours do not.
                canvas.rect([x, y, (width - 1.0).max(0.5), ROW - 8.0], &style);
            }
            x += width;
        }
        canvas.text(
            x + 7.0,
            y + 14.0,
            &text("start"),
            &format!("{:.1}", cpu.total()),
        );
        y += ROW;
    }
    Some(canvas.finish(&title("CPU of a call, µs", set), "", ""))
}

fn cpu_of(case: &Case) -> Cpu {
    Cpu {
        client: case.median(|round| round.cpu_us.client),
        proxy: case.median(|round| round.cpu_us.proxy),
        server: case.median(|round| round.cpu_us.server),
    }
}

fn legend(canvas: &mut Canvas, palette: &Palette) {
    let parts = [("client", 150.0), ("proxies", 230.0), ("server", 318.0)];
    for ((name, x), colour) in parts.into_iter().zip(palette.parts) {
        canvas.rect([x, 50.0, 12.0, 12.0], &format!(r#"style="fill:{colour}""#));
        let style = format!(r#"style="font:13px {SANS};fill:{}""#, palette.ink);
        canvas.text(x + 18.0, 61.0, &style, name);
    }
}

fn begin(canvas: &mut Canvas, palette: &Palette, title: &str, height: f64) {
    if let Some(paper) = palette.paper {
        canvas.rect(
            [0.0, 0.0, WIDTH, height],
            &format!(r#"style="fill:{paper}""#),
        );
    }
    let style = format!(r#"style="font:600 15px {SANS};fill:{}""#, palette.ink);
    canvas.text(16.0, 26.0, &style, title);
}

fn title(what: &str, set: &Set) -> String {
    format!("{what}: {}", set.describe())
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn both_pictures_name_every_case_and_refer_to_nothing_outside() {
        let rpc = sample::data().rpc.unwrap();
        let set = &rpc.sets[0];
        for picture in [latency(set, &PRINT).unwrap(), cpu(set, &PRINT).unwrap()] {
            for case in &set.cases {
                assert!(
                    picture.contains(&format!(">{}</text>", case.name)),
                    "{}",
                    case.name
                );
            }
            assert!(!picture.contains("href") && !picture.contains("url("));
            assert!(!picture.contains("NaN") && !picture.contains("inf"));
        }
    }

    #[test]
    fn each_nine_is_a_step_and_each_family_has_a_colour() {
        assert!((nines(99.0) - 2.0).abs() < 1e-9 && nines(0.0) == 0.0);
        assert!(nines(100.0).is_finite());
        let names = [
            "sidestep-x3",
            "tonic-x3",
            "tonic-xds",
            "grpc-go-xds",
            "envoy-both",
            "h2",
        ];
        assert_eq!(names.map(family), [0, 1, 2, 3, 4, 5]);
        assert_eq!(
            [120.0, 2_000.0, 5e6].map(duration),
            ["120 µs", "2 ms", "5 s"]
        );
        assert_eq!(ticks((2.0, 3.0)), [100.0, 200.0, 500.0, 1000.0]);
    }

    #[test]
    fn labels_keep_apart_and_inside() {
        let mut labels: Vec<_> = [98.0, 10.0, 12.0, 99.0].map(|y| (y, "", "", false)).into();
        spread(&mut labels, 16.0, 100.0);
        let at: Vec<f64> = labels.iter().map(|label| label.0).collect();
        assert_eq!(at, [10.0, 26.0, 84.0, 100.0]);
    }
}
