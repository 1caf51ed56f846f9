//! Any binary frame is refused or has exactly one encoding.

#![no_main]

use bytes::Bytes;
use iris_protocol::frame::{Acks, BinaryFrame, Frame};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let bytes = Bytes::copy_from_slice(data);
    let again = match BinaryFrame::decode(bytes.clone()) {
        Ok(BinaryFrame::Data(data)) => data.encode(),
        Ok(BinaryFrame::Ack(acks)) => Acks::encode(&mut acks.iter()).expect("acks are not empty"),
        Err(_) => return,
    };
    assert_eq!(again, Frame::Binary(bytes));
});
