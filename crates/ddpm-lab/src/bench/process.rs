//! A program under measurement: ours or the peer's, in a process of its own, asked line by line.
//!
//! It says who it is, then answers each command with one line of JSON:
//!
//! | command | answer |
//! | --- | --- |
//! | `forward N`, `train N`, `multiply N` | `{"seconds": [..], "cpu_seconds": [..]}` of N runs after one that is not counted |
//! | `sample N` | the same, of a batch in N steps |
//! | `load N` | the same, a batch, over N batches |
//! | `memory` | `{"peak_mib": ..}` of the process so far |
//! | `profile N` | `{"step_ms": .., "operations": [..]}` of N training steps; ours only |

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, bail};
use serde::Deserialize;

/// Who answers.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Hello {
    pub(super) name: String,
    pub(super) parameters: usize,
    pub(super) threads: usize,
}

/// What is answered; a field for each kind of answer.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Answer {
    pub(super) seconds: Vec<f64>,
    pub(super) cpu_seconds: Vec<f64>,
    pub(super) peak_mib: f64,
    pub(super) step_ms: f64,
    pub(super) operations: Vec<Operation>,
    pub(super) done: bool,
    pub(super) error: Option<String>,
}

/// A line of the profile.
#[derive(Clone, Debug, Deserialize, serde::Serialize)]
pub(super) struct Operation {
    pub(super) name: String,
    /// In one step.
    pub(super) calls: f64,
    /// Of one step.
    pub(super) milliseconds: f64,
}

pub(super) struct Process {
    pub(super) hello: Hello,
    program: String,
    child: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Process {
    /// Starts it and waits until it has said who it is.
    pub(super) fn start(command: &mut Command) -> anyhow::Result<Self> {
        let (program, mut child) = spawn(command)?;
        let commands = child.stdin.take().context("no pipe to the process")?;
        let answers = child.stdout.take().context("no pipe from the process")?;
        let mut answers = BufReader::new(answers);
        let hello = read(&mut answers, &program)?;
        Ok(Self { hello, program, child, commands, answers })
    }

    /// Sends a command and waits for its answer.
    pub(super) fn ask(&mut self, command: &str) -> anyhow::Result<Answer> {
        writeln!(self.commands, "{command}").with_context(|| format!("{} has ended", self.program))?;
        let answer: Answer = read(&mut self.answers, &self.program)?;
        match answer.error {
            Some(error) => bail!("{}: `{command}`: {error}", self.program),
            None => Ok(answer),
        }
    }
}

/// A side of a comparison: its process, and what was measured of it.
pub(super) struct Side<M> {
    pub(super) process: Process,
    pub(super) measured: M,
}

impl<M> Side<M> {
    /// Starts a process, of which `measured` makes an empty measurement.
    pub(super) fn start(command: &mut Command, measured: impl FnOnce(Hello) -> M) -> anyhow::Result<Self> {
        let process = Process::start(command)?;
        let measured = measured(process.hello.clone());
        Ok(Self { process, measured })
    }
}

/// Asks one side after the other, so that whatever else the machine does meets all sides alike.
pub(super) fn in_turns<M>(
    rounds: usize,
    sides: &mut [Side<M>],
    command: &str,
    take: fn(&mut M, Answer),
) -> anyhow::Result<()> {
    for round in 0..rounds {
        for side in sides.iter_mut() {
            ddpm_console::say!("{}: {command}, round {} of {rounds}", side.process.hello.name, round + 1);
            take(&mut side.measured, side.process.ask(command)?);
        }
    }
    Ok(())
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Runs a process that gives one answer and ends.
pub(super) fn answer_of(command: &mut Command) -> anyhow::Result<Answer> {
    let (program, mut child) = spawn(command)?;
    let answers = child.stdout.take().context("no pipe from the process")?;
    let answer = read(&mut BufReader::new(answers), &program);
    drop(child.kill());
    drop(child.wait());
    answer
}

fn spawn(command: &mut Command) -> anyhow::Result<(String, Child)> {
    let program = command.get_program().to_string_lossy().into_owned();
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let child = child.with_context(|| format!("{program} did not start"))?;
    Ok((program, child))
}

fn read<T: for<'a> Deserialize<'a>>(answers: &mut impl BufRead, program: &str) -> anyhow::Result<T> {
    let mut line = String::new();
    answers.read_line(&mut line).with_context(|| format!("{program} does not answer"))?;
    if line.is_empty() {
        bail!("{program} ended without an answer; what it said stands above");
    }
    serde_json::from_str(&line).with_context(|| format!("{program} answered {:?}", line.trim_end()))
}
