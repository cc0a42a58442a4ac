//! Looks how busy the workers are, for as long as the process runs, so that as many are at work as are needed.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

use rustix::thread::Pid;

use crate::client::staffing::{Foreman, Staffing};

/// How often. Long enough that looking costs nothing, short enough that a load that begins is not felt.
const LOOK_PERIOD: Duration = Duration::from_millis(100);

/// Looks after the workers with these threads. Never ends, unless there is nothing to look at.
pub async fn watch(staffing: &Staffing, threads: &[Pid]) {
    if threads.len() < 2 {
        return;
    }
    if let Err(error) = watch_clocks(staffing, threads).await {
        tracing::info!("it cannot be told how busy workers are ({error}): all of them are at work");
        staffing.keep(0);
    }
}

async fn watch_clocks(staffing: &Staffing, threads: &[Pid]) -> io::Result<()> {
    let mut clocks = threads.iter().map(|it| Clock::of(*it)).collect::<io::Result<Vec<_>>>()?;
    let mut foreman = Foreman::default();
    let mut looks = tokio::time::interval(LOOK_PERIOD);
    let mut before = Instant::now();
    loop {
        looks.tick().await;
        let now = Instant::now();
        let period = now.duration_since(before).as_secs_f32();
        let busy = clocks.iter_mut().map(Clock::turn).collect::<io::Result<Vec<_>>>()?;
        let loads: Vec<f32> = busy.iter().map(|it| it.as_secs_f32() / period.max(f32::EPSILON)).collect();
        foreman.look(staffing, &loads);
        before = now;
    }
}

/// A thread's time on a processor.
struct Clock {
    file: File,
    before: Duration,
}

impl Clock {
    fn of(thread: Pid) -> io::Result<Self> {
        let file = File::open(format!("/proc/self/task/{}/schedstat", thread.as_raw_nonzero()))?;
        let mut clock = Self { file, before: Duration::ZERO };
        clock.turn()?;
        Ok(clock)
    }

    /// How much it was since this was last asked. The first number of schedstat: Documentation/scheduler/sched-stats.rst
    /// in the kernel's source.
    fn turn(&mut self) -> io::Result<Duration> {
        let mut text = [0; 64];
        let length = self.file.read_at(&mut text, 0)?;
        let first = text[..length].split(u8::is_ascii_whitespace).next().unwrap_or_default();
        let nanoseconds = std::str::from_utf8(first).ok().and_then(|it| it.parse().ok());
        let now = Duration::from_nanos(nanoseconds.ok_or(io::ErrorKind::InvalidData)?);
        let turn = now.saturating_sub(self.before);
        self.before = now;
        Ok(turn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_tells_what_its_thread_has_used() {
        let mut clock = Clock::of(rustix::thread::gettid()).expect("schedstat is readable");
        let begun = Instant::now();
        let mut used = Duration::ZERO;
        while used < Duration::from_millis(2) {
            used += clock.turn().expect("schedstat is readable");
        }
        assert!(used <= begun.elapsed() + Duration::from_millis(1));
    }
}
