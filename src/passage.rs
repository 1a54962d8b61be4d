//! Large answers that go from an endpoint's socket to a client's through a pipe in the kernel, without coming up to us.
//!
//! ```text
//!   endpoint's socket ──fill──> pipe ──empty──> client's socket
//!                         │                ^
//!                         └─ stand-in ─> hyper
//! ```
//!
//! hyper writes what an answer's body gives it, and knows nothing of pipes. So the body gives it *stand-ins*: slices of a
//! region that nobody writes or reads, as many bytes as the pipe has taken. Where hyper's bytes come to be written, one
//! layer below it, a stand-in is known by its address, and the pipe is emptied in its place. That saves two copies of
//! every byte, which are half of what a large body costs (`docs/benchmarks.md`).
//!
//! Only where nobody has to look at the bytes: plain TCP on both sides, a client that speaks HTTP/1, a body of known
//! length that is neither compressed nor compared.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use rustix::process::{Resource, getrlimit};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::Instant;

/// What a pipe takes at once. Its memory is the kernel's, and used while a client is slower than its endpoint.
const PIPE_BYTES: usize = 256 * 1024;
/// Pipes of one worker; answers beyond them are copied. A slow client keeps its pipe as long as its answer lasts.
const PIPES_MAX: usize = 64;
/// All pipes together may have this part of the process's descriptors. Each is two of them.
const DESCRIPTORS_PART: u64 = 16;
/// How long none is asked for after the system refused one.
const REFUSED_FOR: Duration = Duration::from_secs(10);
/// What is shorter isn't worth the system calls that a pipe takes.
pub(crate) const LENGTH_MIN: u64 = 64 * 1024;

/// A connection whose bytes the kernel may carry by itself.
pub(crate) trait Plain {
    /// Its socket, if what is written is what goes over the wire.
    fn plain(&self) -> Option<&TcpStream>;
}

impl Plain for TcpStream {
    fn plain(&self) -> Option<&TcpStream> {
        Some(self)
    }
}

impl Plain for Box<tokio_rustls::server::TlsStream<TcpStream>> {
    fn plain(&self) -> Option<&TcpStream> {
        None
    }
}

/// One worker's pipes.
#[derive(Debug)]
pub(crate) struct Pipes {
    stand_in: Bytes,
    idle: RefCell<Vec<Pipe>>,
    /// That may still be made.
    left: Cell<usize>,
    /// When the system made none for us.
    refused: Cell<Option<Instant>>,
}

#[derive(Debug)]
struct Pipe {
    /// Where it is read, and where it is written.
    exit: OwnedFd,
    entrance: OwnedFd,
}

impl Pipes {
    /// For one of so many workers.
    pub(crate) fn new(workers: usize) -> Rc<Self> {
        let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let all = usize::try_from(descriptors / DESCRIPTORS_PART / 2).unwrap_or(usize::MAX);
        Rc::new(Self {
            // Zeros that nobody touches have no memory.
            stand_in: vec![0; PIPE_BYTES].into(),
            idle: RefCell::default(),
            left: Cell::new((all / workers.max(1)).min(PIPES_MAX)),
            refused: Cell::default(),
        })
    }

    fn take(&self) -> Option<Pipe> {
        if let Some(pipe) = self.idle.borrow_mut().pop() {
            return Some(pipe);
        }
        if self.refused.get().is_some_and(|refused| refused.elapsed() < REFUSED_FOR) {
            return None;
        }
        let left = self.left.get().checked_sub(1)?;
        match Pipe::new() {
            Ok(pipe) => {
                self.left.set(left);
                Some(pipe)
            }
            Err(error) => {
                tracing::debug!(%error, "no pipe; large answers are copied");
                self.refused.set(Some(Instant::now()));
                None
            }
        }
    }
}

impl Pipe {
    fn new() -> io::Result<Self> {
        let (exit, entrance) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // Users with many pipes get small ones, which are worse than none.
        fcntl_setpipe_size(&entrance, PIPE_BYTES)?;
        Ok(Self { exit, entrance })
    }
}

/// The way to one client. See the module's text.
pub(crate) struct Passage {
    pipes: Rc<Pipes>,
    pipe: RefCell<Option<Pipe>>,
    /// Bytes in the pipe. As many stand in for them between here and the client's socket.
    held: Cell<usize>,
    /// No more will come.
    ended: Cell<bool>,
    /// Whoever fills it waits until it is empty.
    waiting: RefCell<Option<Waker>>,
}

/// An end of a passage that fills it; nothing more will come once it is dropped.
#[derive(Debug)]
pub(crate) struct Inlet(Rc<Passage>);

impl Passage {
    pub(crate) fn new(pipes: Rc<Pipes>) -> Rc<Self> {
        Rc::new(Self {
            pipes,
            pipe: RefCell::default(),
            held: Cell::default(),
            ended: Cell::default(),
            waiting: RefCell::default(),
        })
    }

    /// For one answer; `None` where no pipe is left, or the one before hasn't been written out.
    pub(crate) fn open(self: &Rc<Self>) -> Option<Inlet> {
        let mut pipe = self.pipe.borrow_mut();
        if pipe.is_some() {
            return None;
        }
        *pipe = Some(self.pipes.take()?);
        self.ended.set(false);
        Some(Inlet(Rc::clone(self)))
    }

    /// Whether what is written may be a stand-in.
    pub(crate) fn is_in_use(&self) -> bool {
        self.held.get() > 0
    }

    pub(crate) fn is_stand_in(&self, bytes: &[u8]) -> bool {
        let region = self.pipes.stand_in.as_ptr().addr();
        (region..region + PIPE_BYTES).contains(&bytes.as_ptr().addr())
    }

    /// Writes what the pipe holds, or a part of it. How much.
    pub(crate) fn poll_empty(&self, cx: &mut Context<'_>, to: &TcpStream) -> Poll<io::Result<usize>> {
        let held = self.held.get();
        let pipe = self.pipe.borrow();
        let Some(exit) = pipe.as_ref().map(|pipe| &pipe.exit).filter(|_| held > 0) else {
            return Poll::Ready(Err(io::ErrorKind::InvalidInput.into()));
        };
        let count = loop {
            ready!(to.poll_write_ready(cx))?;
            match to.try_io(Interest::WRITABLE, || carry(exit, to, held)) {
                Err(error) if is_for_later(&error) => {}
                written => break written?,
            }
        };
        drop(pipe);
        self.held.set(held.saturating_sub(count));
        if self.held.get() == 0 {
            if self.ended.get() {
                self.give_back();
            }
            self.waiting.take().inspect(Waker::wake_by_ref);
        }
        Poll::Ready(Ok(count))
    }

    fn give_back(&self) {
        self.pipes.idle.borrow_mut().extend(self.pipe.take());
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        if self.held.get() == 0 {
            self.give_back();
        } else if self.pipe.take().is_some() {
            // What is in it is nobody's.
            self.pipes.left.set(self.pipes.left.get() + 1);
        }
    }
}

impl fmt::Debug for Passage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Passage").field("held", &self.held).finish_non_exhaustive()
    }
}

impl Inlet {
    /// Whether the client has yet to take what came before.
    pub(crate) fn is_full(&self) -> bool {
        self.0.held.get() > 0
    }

    /// Takes up to `most` bytes from `from`, and returns what stands in for them: nothing at the stream's end; `None`
    /// where the kernel doesn't do this between these two.
    pub(crate) fn poll_fill(
        &self,
        cx: &mut Context<'_>,
        from: &TcpStream,
        most: u64,
    ) -> Poll<io::Result<Option<Bytes>>> {
        let passage = &*self.0;
        // Only from an empty pipe can it be known why one takes nothing.
        if self.is_full() {
            passage.waiting.replace(Some(cx.waker().clone()));
            return Poll::Pending;
        }
        let pipe = passage.pipe.borrow();
        let Some(pipe) = pipe.as_ref() else { return Poll::Ready(Ok(None)) };
        let most = usize::try_from(most).unwrap_or(usize::MAX).min(PIPE_BYTES);
        loop {
            ready!(from.poll_read_ready(cx))?;
            match from.try_io(Interest::READABLE, || carry(from, &pipe.entrance, most)) {
                Ok(count) => {
                    passage.held.set(count);
                    return Poll::Ready(Ok(Some(passage.pipes.stand_in.slice(..count))));
                }
                Err(error) if is_for_later(&error) => {}
                Err(error) if is_refusal(&error) => return Poll::Ready(Ok(None)),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl Drop for Inlet {
    fn drop(&mut self) {
        let passage = &*self.0;
        passage.waiting.take();
        if passage.held.get() == 0 {
            passage.give_back();
        } else {
            passage.ended.set(true);
        }
    }
}

fn carry(from: impl AsFd, to: impl AsFd, most: usize) -> io::Result<usize> {
    Ok(splice(from, None, to, None, most, SpliceFlags::NONBLOCK | SpliceFlags::MOVE)?)
}

fn is_for_later(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

fn is_refusal(error: &io::Error) -> bool {
    let refusals = [Errno::INVAL, Errno::NOSYS, Errno::PERM, Errno::OPNOTSUPP];
    refusals.iter().any(|refusal| error.raw_os_error() == Some(refusal.raw_os_error()))
}
