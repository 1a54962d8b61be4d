//! `tidegate demo`: backends, the proxy and traffic in one process, so that a newcomer sees within seconds how a
//! release is compared before it gets traffic, how it goes to all of it as a canary, what becomes of one that fails, and
//! what a flip is. Everything in it is real but the backends' work: the proxy, the configuration, the admin API, the
//! requests.

mod backends;
mod breakdown;
mod canary;
mod chronicle;
mod fault;
mod flip;
mod history;
mod invocation;
mod line;
mod notes;
mod reading;
mod rehearsal;
mod release;
mod screen;
mod show;
mod side_thread;
mod stage;
mod state_dir;
mod story;
mod table;
mod traffic;

use std::io;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use crate::cli::{AdminArgs, CliError, Client, DemoArgs, Signals};
use invocation::Invocation;
use line::Line;
use notes::Notes;
use show::Show;
use stage::Stage;
use story::Story;

/// How often the table is redrawn.
const REFRESH_INTERVAL: Duration = Duration::from_millis(250);
/// Pieces of the story that wait to be shown; it is one act at a time, and what people do meanwhile.
const TOLD_MAX: usize = 16;

/// Runs the demo until its time is over or somebody ends it.
pub(crate) fn run(args: &DemoArgs) -> Result<(), CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(CliError::failed)?;
    match runtime.block_on(perform(args.duration))? {
        // A reader that has gone away, as `head` does, has seen enough.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(CliError::failed(error)),
        _ => Ok(()),
    }
}

/// The demo from start to end; inside, whether it could be shown.
async fn perform(lasts: Option<Duration>) -> Result<io::Result<()>, CliError> {
    // Before anything is started, so that no signal meets its default action.
    let mut signals = Signals::new().map_err(CliError::failed)?;
    let notes = Notes::of_the_log();
    let stage = Stage::set().await?;
    let invocation = Invocation::new(stage.admin);
    let client = Client::new(&AdminArgs { address: stage.admin.to_string(), token: None });
    let mut show = Show::new(&stage, notes, invocation.clone(), lasts);
    let (teller, told) = mpsc::channel(TOLD_MAX);
    let (green, next, started) = (stage.green, stage.next, show.started());
    let (fault, mistake) = (stage.fault(), stage.mistake());
    let story = Story { client, invocation, green, next, fault, mistake, started, teller };
    let story = tokio::spawn(story.play(lasts));
    let shown = watch(&mut show, told, &mut signals, lasts).await;
    story.abort();
    let stopping = Instant::now();
    let hurry = async {
        signals.next().await;
    };
    stage.clear(hurry).await;
    Ok(shown.and_then(|()| show.close(stopping.elapsed())))
}

/// Shows what happens until it is time to stop.
async fn watch(
    show: &mut Show,
    mut told: mpsc::Receiver<Vec<Line>>,
    signals: &mut Signals,
    lasts: Option<Duration>,
) -> io::Result<()> {
    show.open()?;
    let mut refresh = tokio::time::interval(REFRESH_INTERVAL);
    refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let over = tokio::time::sleep(lasts.unwrap_or(Duration::MAX));
    tokio::pin!(over);
    loop {
        tokio::select! {
            _ = refresh.tick() => show.refresh()?,
            Some(lines) = told.recv() => {
                show.tell(&lines)?;
                refresh.reset();
            }
            () = &mut over => break,
            _ = signals.next() => break,
        }
    }
    show.stopping()
}
