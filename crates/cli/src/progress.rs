//! How far long work is: a bar on a terminal, plain lines elsewhere, always on standard error.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Least time between two plain lines.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// The progress of one piece of work, counted in steps.
pub struct Progress {
    form: Form,
}

enum Form {
    Silent,
    Bar(ProgressBar),
    Lines(Lines),
}

struct Lines {
    what: String,
    total: u64,
    first: u64,
    start: Instant,
    last_line: Option<Instant>,
}

impl Progress {
    /// Progress of `what`, from `first` of `total` steps on; `quiet` shows nothing.
    pub fn new(what: &str, first: u64, total: u64, quiet: bool) -> Self {
        let form = if quiet {
            Form::Silent
        } else if std::io::stderr().is_terminal() {
            Form::Bar(bar(what, first, total))
        } else {
            let what = what.to_owned();
            Form::Lines(Lines { what, total, first, start: Instant::now(), last_line: None })
        };
        Self { form }
    }

    /// `done` steps are done; `detail` says how it goes.
    pub fn update(&mut self, done: u64, detail: &str) {
        match &mut self.form {
            Form::Silent => {}
            Form::Bar(bar) => {
                bar.set_message(detail.to_owned());
                bar.set_position(done);
            }
            Form::Lines(lines) => lines.update(done, detail),
        }
    }

    /// Says something in between.
    pub fn say(&self, line: &str) {
        match &self.form {
            Form::Silent => {}
            Form::Bar(bar) => bar.suspend(|| say(line)),
            Form::Lines(_) => say(line),
        }
    }

    /// Says a part of the result, which is not how the work goes: it is said with `quiet` too.
    pub fn say_result(&self, line: &str) {
        match &self.form {
            Form::Silent => say(line),
            _ => self.say(line),
        }
    }

    /// The work is over: takes the bar away.
    pub fn finish(&self) {
        if let Form::Bar(bar) = &self.form {
            bar.finish_and_clear();
        }
    }
}

/// Writes a line to standard error, whose absence is no reason to stop working.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn bar(what: &str, first: u64, total: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(5));
    let template = "{prefix} {wide_bar} {pos}/{len}  {msg}  {eta} left";
    // A template that does not parse would show indicatif's own bar.
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_prefix(what.to_owned());
    bar.set_position(first);
    // Steps of an earlier call took none of this one's time.
    bar.reset_eta();
    bar
}

impl Lines {
    fn update(&mut self, done: u64, detail: &str) {
        let now = Instant::now();
        let due = self.last_line.is_none_or(|last| now - last >= LINE_EVERY);
        if !due && done < self.total {
            return;
        }
        self.last_line = Some(now);
        let left =
            time_left(now - self.start, done.saturating_sub(self.first), self.total.saturating_sub(done));
        let detail = if detail.is_empty() { String::new() } else { format!("  {detail}") };
        let left = left.map_or_else(String::new, |left| format!("  {} left", duration(left)));
        say(&format!("{} {done}/{}{detail}{left}", self.what, self.total));
    }
}

/// Time for `remaining` steps at the pace of the `done` ones that took `elapsed`.
fn time_left(elapsed: Duration, done: u64, remaining: u64) -> Option<Duration> {
    if done == 0 || remaining == 0 {
        return None;
    }
    Duration::try_from_secs_f64(elapsed.as_secs_f64() / done as f64 * remaining as f64).ok()
}

/// A duration to two units: `1d 2h`, `3h 4m`, `5m 6s`, `7s`.
pub fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs_f64().round() as u64;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, _, _) => format!("{hours}h {}m", minutes % 60),
        _ => format!("{days}d {}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_two_units() {
        for (seconds, text) in
            [(0.4, "0s"), (59.6, "1m 0s"), (61.0, "1m 1s"), (7384.0, "2h 3m"), (100_000.0, "1d 3h")]
        {
            assert_eq!(duration(Duration::from_secs_f64(seconds)), text);
        }
    }

    #[test]
    fn time_left_follows_the_pace() {
        let left = |done, remaining| time_left(Duration::from_secs(10), done, remaining);
        assert_eq!(left(5, 20), Some(Duration::from_secs(40)));
        assert_eq!(left(0, 20), None);
        assert_eq!(left(5, 0), None);
        assert_eq!(time_left(Duration::MAX, 1, u64::MAX), None);
    }
}
