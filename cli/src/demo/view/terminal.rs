//! The terminal: keys in, pictures out.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use tokio::sync::mpsc;

use super::render::render;
use super::sampler::Sampler;
use crate::demo::scene::Verdict;
use crate::demo::world::{News, World};

/// Between two pictures, and two looks at the keyboard.
const PICTURE: Duration = Duration::from_millis(100);

/// Shows what happens until it ends or the user has seen enough. Answers the verdicts.
///
/// # Errors
/// If the terminal cannot be used.
pub(in crate::demo) async fn watch(
    world: &Arc<World>,
    news: mpsc::UnboundedReceiver<News>,
) -> std::io::Result<Vec<Verdict>> {
    // Restores the terminal on a panic, too.
    let mut terminal = ratatui::try_init()?;
    let shown = show(world, news, &mut terminal).await;
    ratatui::try_restore()?;
    shown
}

async fn show(
    world: &Arc<World>,
    mut news: mpsc::UnboundedReceiver<News>,
    terminal: &mut DefaultTerminal,
) -> std::io::Result<Vec<Verdict>> {
    let mut sampler = Sampler::new();
    let mut verdicts = Vec::new();
    let mut ticks = tokio::time::interval(PICTURE);
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                if pressed(world)? {
                    return Ok(verdicts);
                }
                let view = sampler.picture(world);
                terminal.draw(|frame| render(&view, frame))?;
            }
            heard = news.recv() => {
                let Some(heard) = heard else { return Ok(verdicts) };
                sampler.hear(world.elapsed(), &heard);
                match heard {
                    News::Verdict(verdict) => verdicts.push(*verdict),
                    News::End => return Ok(verdicts),
                    News::Scene(_) | News::Said(..) => {}
                }
            }
        }
    }
}

/// Does what the keys pressed since the last look ask for. Answers whether one of them was to
/// quit.
fn pressed(world: &Arc<World>) -> std::io::Result<bool> {
    while event::poll(Duration::ZERO)? {
        let Event::Key(key) = event::read()? else {
            continue;
        };
        match wish(key) {
            Some(Wish::Quit) => return Ok(true),
            Some(Wish::Pause) => {
                world.paused.fetch_xor(true, Ordering::Relaxed);
            }
            Some(Wish::Next) => world.skip(),
            Some(Wish::Fault(index)) => {
                let world = Arc::clone(world);
                tokio::spawn(async move { world.toggle(index).await });
            }
            None => {}
        }
    }
    Ok(false)
}

/// What a key asks for.
#[derive(Debug, PartialEq, Eq)]
enum Wish {
    Quit,
    Pause,
    Next,
    /// Kill or start the endpoint with this index, from 0.
    Fault(usize),
}

fn wish(key: KeyEvent) -> Option<Wish> {
    if key.kind == KeyEventKind::Release {
        return None;
    }
    match key.code {
        // In raw mode Ctrl-C is a key like any other.
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Some(Wish::Quit),
        KeyCode::Char('q') | KeyCode::Esc => Some(Wish::Quit),
        KeyCode::Char(' ') => Some(Wish::Pause),
        KeyCode::Char('n') => Some(Wish::Next),
        KeyCode::Char(digit @ '1'..='9') => Some(Wish::Fault(digit as usize - '1' as usize)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(letter: char) -> KeyEvent {
        KeyEvent::new(KeyCode::Char(letter), KeyModifiers::NONE)
    }

    #[test]
    fn keys_do_what_the_bottom_line_says() {
        assert_eq!(wish(key('q')), Some(Wish::Quit));
        assert_eq!(wish(key(' ')), Some(Wish::Pause));
        assert_eq!(wish(key('n')), Some(Wish::Next));
        assert_eq!(wish(key('1')), Some(Wish::Fault(0)));
        assert_eq!(wish(key('9')), Some(Wish::Fault(8)));
        assert_eq!(wish(key('x')), None);
        assert_eq!(wish(key('0')), None);
    }

    #[test]
    fn control_c_ends_it_and_c_does_not() {
        let end = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(wish(end), Some(Wish::Quit));
        assert_eq!(wish(key('c')), None);
    }
}
