//! The xDS protocol, both ends, without I/O: wire types, validated resources, codecs and the two ADS state machines.
