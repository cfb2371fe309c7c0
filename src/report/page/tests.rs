//! What the report says, and that it says it as text.
