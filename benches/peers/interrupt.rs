//! Ctrl-C and SIGTERM. They end the benchmark with an error, so that destructors unmount filesystems and remove devices.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result, ensure};
use signal_hook::consts::{SIGINT, SIGTERM};

static INTERRUPTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

pub fn handle_signals() -> Result<()> {
    let flag = INTERRUPTED.get_or_init(Arc::default);
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, flag.clone()).context("cannot handle signals")?;
    }
    Ok(())
}

/// Fails after a signal.
pub fn check() -> Result<()> {
    ensure!(!INTERRUPTED.get().is_some_and(|flag| flag.load(Ordering::Relaxed)), "interrupted");
    Ok(())
}
