//! Threads for the arithmetic of logins: TLS handshakes and password hashing.
//!
//! A handshake costs as much CPU as ten queries or more. Here it never runs between the queries of a worker: a client's
//! messages are handed to one of a few threads of lower priority, and come back as an answer; with a server the whole
//! stream is. How many may be under way is bounded by [`UNDER_WAY_MAX`]; more wait for their turn. Whoever asks somebody
//! outside has turns of their own: a directory that does not answer stops no other login.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::runtime::{Builder, Handle};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;

use super::Stream;
use super::tls::{Tls, in_openssls_words};

/// How many logins of each kind may be under way on these threads at once. Most of them wait for the network, not for a
/// CPU.
pub const UNDER_WAY_MAX: usize = 4096;

/// Threads for what blocks. PAM's modules sleep for seconds after a wrong password.
pub const BLOCKING_MAX: usize = 32;

/// How much nicer than the workers these threads are: nice(2).
const NICENESS: i32 = 5;

/// Why a handshake did not come to an end.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The settings say `disable`.
    #[error("TLS is disabled")]
    Off,
    /// TLS inside TLS.
    #[error("SSL req inside SSL")]
    Twice,
    /// A name to verify that no certificate can hold.
    #[error("TLS handshake failed: \"{host}\" is not a host name that a certificate can have")]
    Name {
        /// The name that was dialled.
        host: String,
    },
    /// One side did not accept the other; the text is OpenSSL's where it has one.
    #[error("TLS handshake failed: {0}")]
    Refused(String),
    /// The connection broke.
    #[error("TLS handshake failed: {0}")]
    Io(io::Error),
    /// The process is ending.
    #[error("TLS handshake failed: shutting down")]
    Ended,
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(refused) => Self::Refused(in_openssls_words(refused)),
            None => Self::Io(error),
        }
    }
}

/// A handle on the threads. Clones share them; they end with the last clone.
#[derive(Clone, Debug)]
pub struct Handshakes(Arc<Threads>);

#[derive(Debug)]
struct Threads {
    runtimes: Vec<Handle>,
    next: AtomicUsize,
    permits: Arc<Semaphore>,
    consulting: Arc<Semaphore>,
    blocking: Arc<Semaphore>,
    /// Dropped with the last handle: the threads wait for that.
    _ends: Vec<oneshot::Sender<()>>,
}

impl Handshakes {
    /// Starts the threads; at least one.
    ///
    /// Errors: the system gives no thread or no epoll.
    pub fn start(threads: usize) -> io::Result<Self> {
        let mut runtimes = Vec::new();
        let mut ends = Vec::new();
        for index in 0..threads.max(1) {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            runtimes.push(runtime.handle().clone());
            let (sender, ended) = oneshot::channel::<()>();
            ends.push(sender);
            std::thread::Builder::new().name(format!("handshake-{index}")).spawn(move || {
                // On Linux it counts for this thread alone. Without it logins merely compete with queries.
                let _ = rustix::process::nice(NICENESS);
                let _ = runtime.block_on(ended);
            })?;
        }
        Ok(Self(Arc::new(Threads {
            runtimes,
            next: AtomicUsize::new(0),
            permits: Arc::new(Semaphore::new(UNDER_WAY_MAX)),
            consulting: Arc::new(Semaphore::new(UNDER_WAY_MAX)),
            blocking: Arc::new(Semaphore::new(BLOCKING_MAX)),
            _ends: ends,
        })))
    }

    /// Does a client's handshake. Its messages are received and sent by the caller's runtime, which hears of the socket
    /// already; only the arithmetic changes threads. Its first bytes may have been `received`. Not cancel safe: dropping
    /// the future closes the connection.
    ///
    /// Errors: as [`ClientSide::accept_by`](super::tls::ClientSide::accept_by).
    pub async fn accept(
        &self,
        stream: Stream,
        received: &[u8],
        tls: Arc<Tls>,
    ) -> Result<Stream, HandshakeError> {
        tls.clients.accept_by(self, stream, received).await
    }

    /// Does a handshake with a server; the stream comes back bound to the caller's runtime. Not cancel safe:
    /// dropping the future closes the connection.
    ///
    /// Errors: as [`ServerSide::connect`](super::tls::ServerSide::connect).
    pub async fn connect(&self, stream: Stream, tls: Arc<Tls>, host: &str) -> Result<Stream, HandshakeError> {
        let stream = stream.detach()?;
        let host = host.to_owned();
        let detached = self
            .run(&self.0.permits, async move {
                let stream = tls.servers.connect(stream.attach()?, &host).await?;
                Ok::<_, HandshakeError>(stream.detach()?)
            })
            .await
            .ok_or(HandshakeError::Ended)??;
        Ok(detached.attach()?)
    }

    /// Does a computation that would hold up a worker: PBKDF2. `None` if the process is ending.
    pub async fn compute<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        self.run(&self.0.permits, async move { work() }).await
    }

    /// Lets somebody outside of the process be asked, away from the worker. `None` if the process is ending.
    pub async fn consult<F>(&self, work: F) -> Option<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.run(&self.0.consulting, work).await
    }

    /// Does what may block for seconds, on a thread of its own: PAM, the look-up of a user. At most [`BLOCKING_MAX`]
    /// at once; more wait for their turn. What has begun is not given up with the future. `None` if the process is
    /// ending.
    pub async fn block<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let permit = Arc::clone(&self.0.blocking).acquire_owned().await.ok()?;
        let work = move || {
            let done = work();
            drop(permit);
            done
        };
        self.0.runtimes[0].spawn_blocking(work).await.ok()
    }

    async fn run<F>(&self, permits: &Arc<Semaphore>, work: F) -> Option<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let permit = Arc::clone(permits).acquire_owned().await.ok()?;
        let turn = self.0.next.fetch_add(1, Ordering::Relaxed) % self.0.runtimes.len();
        let task = self.0.runtimes[turn].spawn(async move {
            let done = work.await;
            drop(permit);
            done
        });
        let mut task = AbortOnDrop(task);
        (&mut task.0).await.ok()
    }
}

/// A login that nobody waits for any more is given up, with its connection.
struct AbortOnDrop<T>(JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_asks_in_vain_takes_no_turn_of_a_computation() {
        let threads = Handshakes::start(1).unwrap();
        let turns = u32::try_from(UNDER_WAY_MAX).unwrap();
        let all = Arc::clone(&threads.0.consulting).acquire_many_owned(turns).await.unwrap();
        assert_eq!(threads.compute(|| 7).await, Some(7));
        drop(all);
        assert_eq!(threads.consult(async { 8 }).await, Some(8));
    }
}
