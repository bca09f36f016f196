//! A picture as text: a pure function of the [`View`].

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, BorderType, Padding, Paragraph};

use super::{EndpointView, GroupView, Mark, View};
use crate::demo::backend::State;

const KEYS: &str = "space pause   n next scene   1-9 kill or start an endpoint   q quit";

const MESH: Color = Color::Cyan;
const CONTROL: Color = Color::DarkGray;

/// Draws the whole picture.
pub(super) fn render(view: &View, frame: &mut Frame<'_>) {
    let endpoints = u16::try_from(view.endpoints.len()).unwrap_or(u16::MAX);
    let areas = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(4),
        Constraint::Length(endpoints.saturating_mul(2).saturating_add(2)),
        Constraint::Length(6),
        Constraint::Length(1),
        Constraint::Min(3),
        Constraint::Length(1),
    ]);
    let [head, scene, topology, groups, marks, log, keys] = areas.areas(frame.area());
    frame.render_widget(head_line(view), head);
    frame.render_widget(scene_box(view), scene);
    frame.render_widget(topology_box(view, topology), topology);
    frame.render_widget(groups_box(view), groups);
    frame.render_widget(marks_line(view), marks);
    frame.render_widget(log_box(view, log), log);
    frame.render_widget(Line::styled(format!(" {KEYS}"), dim()), keys);
}

fn head_line(view: &View) -> Line<'_> {
    let state = if view.control_plane_up {
        Span::styled("up", Color::Green)
    } else {
        Span::styled("DOWN", Color::Red)
    };
    let mut spans = vec![
        Span::styled(" sidestep demo ", Modifier::BOLD),
        Span::raw(format!(
            " {:.1} s   control plane ",
            view.elapsed.as_secs_f64()
        )),
        Span::raw(view.control_plane.as_str()),
        Span::raw(" "),
        state,
    ];
    if view.paused {
        spans.push(Span::styled("   PAUSED", Color::Yellow));
    }
    Line::from(spans)
}

fn scene_box(view: &View) -> Paragraph<'_> {
    let lines = match &view.scene {
        None => vec![Line::raw("everything starts")],
        Some(scene) => vec![
            Line::styled(scene.title, Modifier::BOLD),
            Line::from(vec![
                Span::styled("promise  ", dim()),
                Span::raw(scene.promise),
            ]),
        ],
    };
    let title = view.scene.map_or("scene", |scene| scene.name);
    Paragraph::new(lines).block(boxed(format!(" {title} ")))
}

fn topology_box(view: &View, area: Rect) -> Paragraph<'_> {
    let last = view.endpoints.len().saturating_sub(1);
    let width = usize::from(area.width).saturating_sub(BEFORE_BAR + AFTER_BAR);
    let mut lines = Vec::new();
    for (index, endpoint) in view.endpoints.iter().enumerate() {
        lines.extend(endpoint_lines(endpoint, index, last, width));
    }
    Paragraph::new(lines).block(boxed(" share of answered calls, last second ".to_owned()))
}

/// Columns to the left of a bar, the border included, and to its right.
const BEFORE_BAR: usize = 52;
const AFTER_BAR: usize = 8;

/// Two lines: the mesh's bar, and the control group's below it.
fn endpoint_lines(
    endpoint: &EndpointView,
    index: usize,
    last: usize,
    width: usize,
) -> [Line<'static>; 2] {
    let (branch, stem) = match index {
        0 if last == 0 => ("callers ───▶ ", "             "),
        0 => ("callers ─┬─▶ ", "         │   "),
        _ if index == last => ("         └─▶ ", "             "),
        _ => ("         ├─▶ ", "         │   "),
    };
    let (word, colour) = state(endpoint.state);
    let first = Line::from(vec![
        Span::styled(branch, dim()),
        Span::raw(format!("{} {} ", index + 1, endpoint.name)),
        Span::styled(format!("{} ", endpoint.version), Color::Magenta),
        Span::styled(format!("{word:<11}"), colour),
        Span::styled(format!("{:>9}", "mesh "), MESH),
        bar(endpoint.mesh_share, width, MESH),
    ]);
    let second = Line::from(vec![
        Span::styled(stem, dim()),
        Span::styled(format!("  {:<24}", endpoint.address), dim()),
        Span::styled(format!("{:>9}", "control "), CONTROL),
        bar(endpoint.control_share, width, CONTROL),
    ]);
    [first, second]
}

fn state(state: State) -> (&'static str, Color) {
    match state {
        State::Up => ("up", Color::Green),
        State::Draining => ("draining", Color::Yellow),
        State::Starting => ("starting", Color::Yellow),
        State::Down => ("DOWN", Color::Red),
    }
}

fn bar(share: f64, width: usize, colour: Color) -> Span<'static> {
    let filled = (share * width as f64).round() as usize;
    let bar = "█".repeat(filled.min(width));
    Span::styled(format!("{bar} {:.0} %", share * 100.0), colour)
}

fn groups_box(view: &View) -> Paragraph<'_> {
    let heading = row(
        "",
        ["calls/s", "answered", "failed", "retried", "p50", "p99"]
            .map(|name| Span::styled(format!("{name:>11}"), dim())),
        Style::default(),
    );
    let lines = vec![
        heading,
        group("mesh", &view.mesh, MESH, true),
        group("control", &view.control, CONTROL, false),
        Line::styled(
            "control: the same calls over tonic's own balanced channel, static addresses",
            dim(),
        ),
    ];
    Paragraph::new(lines).block(boxed(" both groups, in this scene ".to_owned()))
}

fn group(name: &'static str, group: &GroupView, colour: Color, retries: bool) -> Line<'static> {
    let failed = if group.failed == 0 {
        Span::styled(format!("{:>11}", 0), Color::Green)
    } else {
        let bad = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);
        Span::styled(format!("{:>11}", group.failed), bad)
    };
    let retried = if retries {
        group.retried.to_string()
    } else {
        "-".to_owned()
    };
    let cells = [
        Span::raw(format!("{:>11.0}", group.calls_per_second)),
        Span::raw(format!("{:>11}", group.ok)),
        failed,
        Span::raw(format!("{retried:>11}")),
        Span::raw(format!("{:>11}", group.p50)),
        Span::raw(format!("{:>11}", group.p99)),
    ];
    row(name, cells, Style::new().fg(colour))
}

fn row(name: &'static str, cells: [Span<'static>; 6], style: Style) -> Line<'static> {
    let mut spans = vec![Span::styled(format!("{name:<9}"), style)];
    spans.extend(cells);
    Line::from(spans)
}

fn marks_line(view: &View) -> Line<'_> {
    let mut spans = vec![Span::raw(" ")];
    for (name, mark) in &view.marks {
        let (sign, colour) = match mark {
            Mark::NotYet => ("·", Color::DarkGray),
            Mark::Playing => ("▶", Color::Yellow),
            Mark::Kept => ("✔", Color::Green),
            Mark::Broken => ("✘", Color::Red),
            Mark::ByHand => ("~", Color::Yellow),
        };
        spans.push(Span::styled(format!("{sign} {name}   "), colour));
    }
    Line::from(spans)
}

fn log_box(view: &View, area: Rect) -> Paragraph<'_> {
    let room = usize::from(area.height).saturating_sub(2);
    let skip = view.log.len().saturating_sub(room);
    let lines: Vec<Line<'_>> = view.log[skip..]
        .iter()
        .map(|line| Line::raw(line.as_str()))
        .collect();
    Paragraph::new(lines).block(boxed(" events ".to_owned()))
}

fn boxed(title: String) -> Block<'static> {
    Block::bordered()
        .border_type(BorderType::Rounded)
        .border_style(dim())
        .padding(Padding::horizontal(1))
        .title(Span::styled(title, Modifier::BOLD))
}

fn dim() -> Style {
    Style::new().fg(Color::DarkGray)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::view::Playing;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use std::time::Duration;

    fn view() -> View {
        let endpoint = |name, state, mesh_share| EndpointView {
            name,
            version: "v1",
            address: "127.0.0.1:41295".to_owned(),
            state,
            mesh_share,
            control_share: 0.5,
        };
        View {
            elapsed: Duration::from_millis(12_340),
            paused: false,
            control_plane: "127.0.0.1:34397".to_owned(),
            control_plane_up: true,
            scene: Some(Playing {
                name: "kill",
                title: "a backend is killed",
                promise: "0 failed",
            }),
            endpoints: vec![
                endpoint("greeter-a", State::Up, 1.0),
                endpoint("greeter-b", State::Down, 0.0),
            ],
            mesh: GroupView {
                calls_per_second: 249.6,
                ok: 500,
                retried: 2,
                p50: "12.8 ms".to_owned(),
                p99: "26.5 ms".to_owned(),
                ..GroupView::default()
            },
            control: GroupView {
                failed: 83,
                ..GroupView::default()
            },
            marks: vec![("split", Mark::Kept), ("kill", Mark::Playing)],
            log: (0..50).map(|line| format!("event {line}")).collect(),
        }
    }

    fn picture(view: &View, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a test terminal");
        terminal.draw(|frame| render(view, frame)).expect("draws");
        let buffer = terminal.backend().buffer().clone();
        let row = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect();
        (0..height).map(row).collect()
    }

    fn line<'a>(picture: &'a [String], text: &str) -> &'a str {
        let found = picture.iter().find(|line| line.contains(text));
        found.unwrap_or_else(|| panic!("no {text:?} in\n{}", picture.join("\n")))
    }

    #[test]
    fn the_picture_shows_scene_endpoints_groups_and_the_newest_events() {
        let picture = picture(&view(), 110, 32);
        line(&picture, "control plane 127.0.0.1:34397 up");
        line(&picture, "promise  0 failed");
        assert!(line(&picture, "1 greeter-a").contains("██ 100 %"));
        assert!(line(&picture, "2 greeter-b").contains("DOWN"));
        assert!(line(&picture, "│ mesh ").contains("250"));
        assert!(line(&picture, "│ control  ").contains("83"));
        line(&picture, "✔ split   ▶ kill");
        line(&picture, "event 49");
        assert!(!picture.iter().any(|line| line.contains("event 0 ")));
    }

    #[test]
    fn a_dead_control_plane_and_a_pause_are_seen() {
        let view = View {
            paused: true,
            control_plane_up: false,
            ..view()
        };
        let picture = picture(&view, 110, 32);
        line(&picture, "DOWN   PAUSED");
    }

    #[test]
    fn a_tiny_terminal_is_no_panic() {
        for (width, height) in [(1, 1), (10, 3), (80, 24), (300, 100)] {
            picture(&view(), width, height);
        }
    }
}
