//! A network namespace held by a thread, and work done inside it.

use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use nix::sched::{CloneFlags, unshare};

type Work = Box<dyn FnOnce() + Send>;

/// A thread in a network namespace of its own; the namespace goes when it does.
pub(crate) struct Room {
    path: PathBuf,
    work: Option<Sender<Work>>,
    thread: Option<JoinHandle<()>>,
}

impl Room {
    pub(crate) fn new() -> Self {
        let (work, jobs) = channel::<Work>();
        let (ready, started) = channel();
        let thread = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace of its own");
            ready.send(nix::unistd::gettid()).expect("somebody waits");
            jobs.into_iter().for_each(|job| job());
        });
        let tid = started.recv().expect("the thread starts");
        let path = PathBuf::from(format!("/proc/self/task/{tid}/ns/net"));
        let room = Self {
            path,
            work: Some(work),
            thread: Some(thread),
        };
        room.ip("link set lo up");
        room
    }

    /// Where others find the namespace.
    pub(crate) fn path(&self) -> PathBuf {
        self.path.clone()
    }

    /// The number of its thread: `ip link set netns` wants a name or a process, and takes it for one.
    pub(crate) fn number(&self) -> String {
        let tid = self.path.components().nth(4).expect("/proc/self/task/TID");
        tid.as_os_str().to_string_lossy().into_owned()
    }

    /// The same, for other processes.
    pub(crate) fn outside_path(&self) -> String {
        let path = self.path.display().to_string();
        path.replace("self", &std::process::id().to_string())
    }

    /// Does `work` inside and waits for it; its panic becomes the caller's.
    pub(crate) fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (answer, result) = channel();
        let job = move || {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            answer.send(outcome).expect("somebody waits");
        };
        self.work
            .as_ref()
            .expect("open")
            .send(Box::new(job))
            .expect("the thread lives");
        match result.recv().expect("the thread answers") {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Runs `ip ARGUMENTS` inside.
    pub(crate) fn ip(&self, arguments: &str) {
        let words: Vec<String> = arguments.split(' ').map(Into::into).collect();
        let line = arguments.to_owned();
        self.run(move || {
            let output = Command::new("ip")
                .args(words)
                .output()
                .expect("iproute2 is installed");
            let fault = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "ip {line}: {fault}");
        });
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        drop(self.work.take());
        if let Some(thread) = self.thread.take() {
            // A panic inside was handed to the caller of run.
            let _ = thread.join();
        }
    }
}
