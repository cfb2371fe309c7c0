//! Robustness: any bytes, any length.

use std::time::Instant;

use super::*;

/// A small generator of repeatable noise (xorshift).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

/// Pieces of real messages, and what breaks parsers.
const PIECES: &[&str] = &[
    "CUDA out of memory. ",
    "Tried to allocate ",
    "99999999999999999999999.99 GiB",
    "0 bytes",
    "(GPU 4294967296; ",
    " total capacity; ",
    "Allocation on device ",
    "OutOfMemoryError",
    "DataLoader worker (pid(s) ",
    ") exited unexpectedly",
    "exitcode : -99999999999",
    "returned non-zero exit status 137",
    "Root Cause (first observed failure)",
    "unable to mmap ",
    " bytes from file </torch_1>: x (12)",
    "\r",
    "\n",
    "\u{1b}[31m",
    "\\n",
    "é",
    "内存不足",
    "\u{fffd}",
    "Traceback (most recent call last):\n  File \"x\", line 1\n    x\n",
    "ncclSystemError",
    "Last error:\n",
    "[Errno 28] No space left on device",
    "/dev/shm",
    "`",
    "**",
    "(",
];

#[test]
fn nothing_is_not_memory() {
    let f = read_failure("", None);
    assert_eq!((f.kind, f.fragmentation, f.fields), (FailureKind::NotMemory, None, FailureFields::default()));
}

#[test]
fn no_text_makes_it_panic() {
    let mut noise = Noise(0x9E37_79B9_7F4A_7C15);
    for _ in 0..300 {
        let mut text = String::new();
        for _ in 0..noise.below(40) {
            match noise.below(4) {
                0 => text.extend(char::from_u32(noise.next() as u32 & 0xFFFF)),
                1 => text.push_str(&noise.next().to_string()),
                _ => text.push_str(PIECES[noise.below(PIECES.len())]),
            }
        }
        let end = match noise.below(4) {
            0 => None,
            1 => Some(ProcessEnd::Exited { code: noise.next() as i32 }),
            2 => Some(ProcessEnd::Signaled { signal: noise.next() as i32 & 0x7F }),
            _ => Some(ProcessEnd::Hung),
        };
        let failure = read_failure(&text, end.as_ref());
        assert!(!failure.cause.is_empty());
        let _ = oom_line(&text);
    }
}

#[test]
fn no_bytes_make_it_panic() {
    let mut noise = Noise(7);
    for length in [0, 1, 2, 3, 64, 4096] {
        let bytes: Vec<u8> = (0..length).map(|_| noise.next() as u8).collect();
        if let Some(text) = decode(&bytes) {
            read_failure(&text, None);
        }
    }
}

#[test]
fn a_long_log_is_read_to_its_cause_in_seconds() {
    // Ten megabytes: training, an exception in the middle, and as much of other ranks after it.  Every line has a
    // word that could matter.
    let mut log = String::new();
    for i in 0..55_000 {
        log.push_str(&format!(
            "[2024-05-01 10:00:00] INFO epoch 1 step {i} loss 0.{i:06} grad_norm 1.0 memory 12.3 GiB\n"
        ));
    }
    let message = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of \
                   11.00 GiB of which 0.50 GiB is free.\n";
    log.push_str(message);
    for i in 0..55_000 {
        log.push_str(&format!(
            "[rank1]: worker {i}: waiting for a peer, retry later, error count {i}, cuda memory unchanged\n"
        ));
    }
    assert!(log.len() > 9 << 20, "{}", log.len());
    let begun = Instant::now();
    let failure = read_failure(&log, None);
    let took = begun.elapsed().as_secs_f64();
    assert_eq!((failure.kind, failure.fields.requested_bytes), (FailureKind::GpuOom, Some(2 << 30)));
    // Without optimisation, on a loaded machine; optimised it is a fraction of a second.
    assert!(took < 60.0, "{took} s");
}
