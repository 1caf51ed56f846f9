//! Any text is refused, skipped or a message that survives being written again.

#![no_main]

use iris_protocol::frame::Frame;
use iris_protocol::message::CoordinatorMessage;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(Some(message)) = CoordinatorMessage::decode(data) else { return };
    let Frame::Text(text) = message.encode() else { panic!("messages are text") };
    assert_eq!(CoordinatorMessage::decode(text.as_bytes()), Ok(Some(message)));
});
