//! PyTorch's side: the process that runs `pytorch.py`, and the exchange with it.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::agreement::Outcome;
use crate::entries::Entry;
use crate::rounds::Contender;

const SCRIPT: &str = include_str!("pytorch.py");

#[derive(Deserialize)]
#[serde(untagged)]
enum Greeting {
    Ready { torch: String, threads: usize },
    Missing { missing: String },
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase", tag = "task")]
enum Task<'a> {
    Check { probes: &'a [usize] },
    Time { repetitions: usize },
}

/// A request; `E` says what to compute, and on which data.
#[derive(Serialize)]
struct Request<'a, E> {
    #[serde(flatten)]
    entry: &'a E,
    #[serde(flatten)]
    task: Task<'a>,
}

#[derive(Deserialize)]
pub struct Checked {
    loss: String,
    gradient_sum: String,
    probes: Vec<String>,
}

impl Checked {
    pub fn outcome(&self) -> Result<Outcome, String> {
        let probes = self.probes.iter().map(number);
        Ok(Outcome {
            loss: number(&self.loss)?,
            gradient_sum: number(&self.gradient_sum)?,
            probes: probes.collect::<Result<_, _>>()?,
        })
    }
}

#[derive(Deserialize)]
struct Times {
    seconds: Vec<f64>,
}

pub struct PyTorch {
    pub mode: Mode,
    pub version: String,
    python: String,
    child: Child,
    requests: ChildStdin,
    replies: BufReader<ChildStdout>,
}

/// Ways in which PyTorch computes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mode {
    Eager,
    /// Memory in huge pages.
    HugePages,
    /// `torch.compile`.
    Compiled,
}

impl PyTorch {
    pub fn start(python: &str, threads: usize, mode: Mode) -> Result<Self, String> {
        let compiles = if mode == Mode::Compiled {
            "compiled"
        } else {
            "eager"
        };
        let huge_pages = if mode == Mode::HugePages { "1" } else { "0" };
        let mut child = Command::new(python)
            .args(["-c", SCRIPT, &threads.to_string(), compiles])
            .env("THP_MEM_ALLOC_ENABLE", huge_pages)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Threads that spin forever would run during the turns of this crate.
            .env_remove("OMP_WAIT_POLICY")
            .spawn()
            .map_err(|error| format!("{python} cannot be started: {error}. {HOW_TO_GET_IT}"))?;
        let requests = child.stdin.take().expect("it is piped");
        let replies = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut pytorch = Self {
            mode,
            version: String::new(),
            python: python.to_string(),
            child,
            requests,
            replies,
        };
        match pytorch.reply()? {
            Greeting::Missing { missing } if mode == Mode::Compiled => {
                Err(format!("{missing}. Give --no-compile to leave it out."))
            }
            Greeting::Missing { missing } => Err(format!(
                "{python} has no PyTorch ({missing}). {HOW_TO_GET_IT}"
            )),
            Greeting::Ready { threads: given, .. } if given != threads => Err(format!(
                "PyTorch took {given} threads where {threads} were asked for; give --threads {given}"
            )),
            Greeting::Ready { torch, .. } => {
                pytorch.version = torch;
                Ok(pytorch)
            }
        }
    }

    pub fn outcome(&mut self, entry: &Entry, probes: &[usize]) -> Result<Outcome, String> {
        self.check::<Checked, _>(entry, probes)?.outcome()
    }

    /// Asks for the results of an entry; `T` holds [`Checked`].
    pub fn check<T: DeserializeOwned, E: Serialize>(
        &mut self,
        entry: &E,
        probes: &[usize],
    ) -> Result<T, String> {
        let task = Task::Check { probes };
        self.ask(&Request { entry, task })
    }

    /// Asks for the seconds of each repetition.
    pub fn time<E: Serialize>(
        &mut self,
        entry: &E,
        repetitions: usize,
    ) -> Result<Vec<f64>, String> {
        let task = Task::Time { repetitions };
        Ok(self.ask::<Times, E>(&Request { entry, task })?.seconds)
    }

    fn ask<T: DeserializeOwned, E: Serialize>(
        &mut self,
        request: &Request<E>,
    ) -> Result<T, String> {
        let line = serde_json::to_string(request).expect("a request has only plain fields");
        // A process that is gone gives no reply, and that error says more than this one.
        let _ = writeln!(self.requests, "{line}").and_then(|()| self.requests.flush());
        self.reply()
    }

    fn reply<T: DeserializeOwned>(&mut self) -> Result<T, String> {
        let mut line = String::new();
        match self.replies.read_line(&mut line) {
            Ok(length) if length > 0 => serde_json::from_str(&line).map_err(|error| {
                format!(
                    "{} gave a reply that makes no sense, {line:?}: {error}",
                    self.python
                )
            }),
            _ => Err(self.ending()),
        }
    }

    fn ending(&mut self) -> String {
        let status = match self.child.wait() {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        format!("{} ended before its work was done ({status})", self.python)
    }
}

const HOW_TO_GET_IT: &str = "Make an environment with PyTorch by `python3 -m venv torch-env && \
    torch-env/bin/pip install torch` and give `--python torch-env/bin/python`.";

fn number(text: impl AsRef<str>) -> Result<f64, String> {
    let text = text.as_ref();
    text.parse()
        .map_err(|_| format!("PyTorch's side gave {text:?} for a number"))
}

impl Drop for PyTorch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// PyTorch as a contender in the rounds.
pub struct Theirs<'a> {
    pub pytorch: &'a mut PyTorch,
    pub entry: &'a Entry,
}

impl Contender for Theirs<'_> {
    fn turn(&mut self, repetitions: usize) -> Result<Vec<f64>, String> {
        self.pytorch.time(self.entry, repetitions)
    }
}
