//! The home and the registry in it: who is registered, who owns a record, and what happens when files are damaged,
//! missing or cannot be written.

mod bad_files;
mod crash_points;
mod external;
mod fleet;
mod homes;
mod ownership;
mod races;
mod storage;
mod watching;
