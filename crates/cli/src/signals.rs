//! Ctrl-C and SIGTERM: asked once, the work stops at the next good moment; asked twice, at once.

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Whether the user wants the work to stop, and by which signal.
#[derive(Debug)]
pub struct Signals {
    stop: Arc<AtomicBool>,
    number: Arc<AtomicUsize>,
}

impl Signals {
    /// Watches for the signals from now on.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn watch() -> std::io::Result<Self> {
        let signals = Self { stop: Arc::default(), number: Arc::default() };
        for signal in [SIGINT, SIGTERM] {
            // In this order: the first signal finds `stop` still unset.
            flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&signals.stop))?;
            flag::register_usize(signal, Arc::clone(&signals.number), signal as usize)?;
            flag::register(signal, Arc::clone(&signals.stop))?;
        }
        Ok(signals)
    }

    /// Set once the work should stop.
    pub fn stop(&self) -> &AtomicBool {
        &self.stop
    }

    /// Whether the work should stop.
    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// The exit status of work that was stopped: 130 for Ctrl-C, 143 for SIGTERM.
    pub fn exit_status(&self) -> u8 {
        128 + self.number.load(Ordering::Relaxed) as u8
    }
}
