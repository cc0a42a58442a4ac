//! What a process has used: processor time and memory, as the kernel accounts them.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;

/// How often a watched process is looked at.
const PERIOD: Duration = Duration::from_millis(10);

/// Processor time of all threads that a process has and has had, user and system: what /proc/PID/stat shows in ticks
/// of 10 ms, by the clock it is taken from.
pub fn processor_time(pid: i32) -> Result<Duration, String> {
    let clock = clock_getcpuclockid(Pid::from_raw(pid)).map_err(|error| format!("process {pid}: {error}"))?;
    let now = clock.now().map_err(|error| format!("process {pid}: {error}"))?;
    Ok(Duration::from(now))
}

/// VmRSS of proc_pid_status(5), in bytes.
pub fn resident(pid: i32) -> Result<f64, String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).map_err(|error| error.to_string())?;
    let line = status.lines().find_map(|it| it.strip_prefix("VmRSS:")).ok_or("the process has ended")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse().map_err(|_| "VmRSS is a number")?;
    Ok(kib * 1024.0)
}

/// One look at a process.
#[derive(Clone, Copy)]
struct Look {
    at: SystemTime,
    spent: Duration,
    resident: f64,
}

/// Looks at a process again and again, so that afterwards it can be said what it used between any two moments.
pub struct Watch {
    pid: i32,
    looks: Arc<Mutex<Vec<Look>>>,
    over: Arc<AtomicBool>,
    watcher: Option<JoinHandle<()>>,
}

impl Look {
    /// `None`: the process has ended.
    fn now(pid: i32) -> Option<Self> {
        let (spent, resident) = (processor_time(pid).ok()?, resident(pid).ok()?);
        Some(Self { at: SystemTime::now(), spent, resident })
    }
}

impl Watch {
    pub fn of(pid: i32) -> Self {
        let looks = Arc::new(Mutex::new(Look::now(pid).into_iter().collect()));
        let over = Arc::new(AtomicBool::new(false));
        let (seen, end) = (Arc::clone(&looks), Arc::clone(&over));
        let watcher = thread::spawn(move || keep_looking(pid, &seen, &end));
        Self { pid, looks, over, watcher: Some(watcher) }
    }

    /// All looks so far, the last of them now.
    fn looks(&self) -> Vec<Look> {
        let looks = self.looks.lock().expect("looking does not panic").clone();
        looks.into_iter().chain(Look::now(self.pid)).collect()
    }

    /// Processor time between two moments in seconds, interpolated between looks. `None`: it was not watched then.
    pub fn spent(&self, from: SystemTime, to: SystemTime) -> Option<f64> {
        let looks = self.looks();
        let at = |moment: SystemTime| {
            let after = looks.partition_point(|it| it.at < moment);
            let (a, b) = (looks.get(after.checked_sub(1)?)?, looks.get(after)?);
            let whole = b.at.duration_since(a.at).ok()?.as_secs_f64();
            let part = moment.duration_since(a.at).ok()?.as_secs_f64() / whole;
            Some(a.spent.as_secs_f64() + part * (b.spent - a.spent).as_secs_f64())
        };
        Some(at(to)? - at(from)?)
    }

    /// The most memory that it was seen with, in bytes.
    pub fn most_resident(&self) -> f64 {
        self.looks().iter().map(|it| it.resident).fold(0.0, f64::max)
    }
}

fn keep_looking(pid: i32, looks: &Mutex<Vec<Look>>, over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        thread::sleep(PERIOD);
        let Some(look) = Look::now(pid) else { return };
        looks.lock().expect("looking does not panic").push(look);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(watcher) = self.watcher.take() {
            let _ = watcher.join();
        }
    }
}
