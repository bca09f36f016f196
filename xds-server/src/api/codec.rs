//! A tonic codec whose messages to send are encoded already.

use std::marker::PhantomData;

use bytes::{BufMut as _, Bytes};
use prost::Message;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

/// Decodes `M`; takes ready-made bytes to send.
pub(super) struct ReadyCodec<M>(PhantomData<fn() -> M>);

impl<M> Default for ReadyCodec<M> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<M: Message + Default + 'static> Codec for ReadyCodec<M> {
    type Encode = Bytes;
    type Decode = M;
    type Encoder = ReadyEncoder;
    type Decoder = MessageDecoder<M>;

    fn encoder(&mut self) -> ReadyEncoder {
        ReadyEncoder
    }

    fn decoder(&mut self) -> MessageDecoder<M> {
        MessageDecoder(PhantomData)
    }
}

/// Sends bytes as they are.
pub(super) struct ReadyEncoder;

impl Encoder for ReadyEncoder {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

/// Decodes `M`.
pub(super) struct MessageDecoder<M>(PhantomData<fn() -> M>);

impl<M: Message + Default + 'static> Decoder for MessageDecoder<M> {
    type Item = M;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<M>, Status> {
        M::decode(buffer)
            .map(Some)
            .map_err(|error| Status::invalid_argument(format!("unreadable request: {error}")))
    }
}
