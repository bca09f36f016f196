//! The xDS transport protocol as two state machines without sockets or clocks.
//!
//! Both have the same verbs: `handle_…(now, input)`, `poll_output()`, `poll_timeout()` and
//! `handle_timeout(now)`. [`ClientStream`] is a data plane's side, [`ServerStream`] one peer as
//! the management server sees it. Both speak state of the world and delta.
