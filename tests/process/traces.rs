//! Files are as before.
