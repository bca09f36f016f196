//! What a call, a pick and a config change cost.
