//! What machines that run one trial tell each other: one JSON object a line.

use serde::{Deserialize, Serialize};

use crate::model::Event;
use crate::model::observation::ProcessEnd;
use crate::trial::part::Part;

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "word", rename_all = "snake_case")]
pub enum Word {
    /// The first of each: it is there.
    Here {
        /// Its name.
        host: String,
    },
    /// The leader's: all are there, and this is how they go on.
    Meet(Meeting),
    /// To the leader: an agent's record.
    Event {
        /// Whose.
        rank: u32,
        /// What it says.
        event: Box<Event>,
    },
    /// A file with which ranks agree on their common end.
    Mark {
        /// Its name in the trial directory.
        name: String,
        /// What is in it.
        text: String,
    },
    /// It lives, and has nothing else to say.
    Beat,
    /// The leader's: the trial is to end.
    End {
        /// As what.
        why: ProcessEnd,
    },
    /// To the leader, the last of each: how it ended there.
    Over(Box<Part>),
}

/// What all of them have to know alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meeting {
    /// The leader's address and a port that was free there.
    pub endpoint: String,
    /// The trial's own name: what agents repeat in their hello, and torchrun's run id.
    pub nonce: String,
}
