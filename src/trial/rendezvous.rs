//! Where the processes of a trial meet.
//!
//! `torchrun` without options takes port 29500, which another run on this machine may hold: the trial would fail, or
//! wait, for a reason of the machine's.  Its other options win over what is set here.

use std::ffi::OsString;
use std::net::TcpListener;

/// torchrun's own variable for the default of `--master-port`.
const PORT: &str = "PET_MASTER_PORT";

/// A port of the trial's own; nothing where the user's environment names one.
pub(super) fn variables(environment: &[(OsString, OsString)]) -> Option<(OsString, OsString)> {
    if environment.iter().any(|(name, _)| name == PORT) {
        return None;
    }
    Some((PORT.into(), free_port()?.to_string().into()))
}

/// Free now, on all of this machine's addresses, and not handed out again soon.
pub(super) fn free_port() -> Option<u16> {
    let listener = TcpListener::bind(("::", 0)).or_else(|_| TcpListener::bind(("0.0.0.0", 0)));
    Some(listener.ok()?.local_addr().ok()?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_trials_meet_at_two_places_and_the_users_own_stays() {
        let port = |v: Option<(OsString, OsString)>| v.unwrap().1.into_string().unwrap();
        let (one, other) = (port(variables(&[])), port(variables(&[])));
        assert_ne!(one, other);
        assert!(one.parse::<u16>().unwrap() > 1023);
        assert_eq!(variables(&[(PORT.into(), "1234".into())]), None);
    }
}
