//! What a server may answer: arbitrary bytes, and answers that are nearly right. A download ends, needs little memory,
//! and leaves the old content or the complete new one.
#![cfg(feature = "url")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::io::Write;

use common::answers::{Answers, Fault, Respond, bytes, faulty};
use common::cases::cases;
use common::content;
use proptest::prelude::*;

/// Downloads that run at once.
const BATCH: usize = 16;

/// Bytes that look like HTTP here and there.
fn soup() -> impl Strategy<Value = Vec<u8>> {
    let pieces = [
        "HTTP/1.1 ",
        "HTTP/1.0 ",
        "200 OK",
        "206 Partial Content",
        "302 Found",
        "100 Continue",
        "204 ",
        "999 ",
        "\r\n",
        "\n",
        "\r\n\r\n",
        ":",
        ": ",
        " ",
        "\0",
        "Content-Length: 5\r\n",
        "Content-Length: 18446744073709551615\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding: gzip\r\n",
        "Location: /\r\n",
        "Location: http://[\r\n",
        "Location: file:///etc/passwd\r\n",
        "Content-Range: bytes 0-4/5\r\n",
        "Content-Encoding: gzip\r\n",
        "Connection: upgrade\r\n",
        "Set-Cookie: a=b\r\n",
        "ETag: \"x\"\r\n",
        "5\r\nhello\r\n",
        "0\r\n\r\n",
        "ffffffffffffffff\r\n",
        "-1\r\n",
        "hello",
    ];
    let piece = prop::sample::select(pieces.to_vec()).prop_map(|piece| piece.as_bytes().to_vec());
    let piece = prop_oneof![9 => piece, 1 => prop::collection::vec(any::<u8>(), 0..20)];
    let start = prop::sample::select(vec!["", "HTTP/1.1 200 OK\r\n"]).prop_map(|start| start.as_bytes().to_vec());
    (start, prop::collection::vec(piece, 0..12)).prop_map(|(start, pieces)| [start, pieces.concat()].concat())
}

/// How the end of a body is announced, and what is wrong with that.
#[derive(Clone, Debug)]
enum Framing {
    UntilClose,
    /// The values of Content-Length, and the bytes that are sent more or fewer.
    Length {
        values: Vec<String>,
        surplus: i64,
    },
    /// The lengths of the chunks, and what replaces one of their lines.
    Chunked {
        chunk: usize,
        extension: &'static str,
        trailer: &'static str,
        defect: Option<(&'static str, &'static str)>,
        cut: usize,
    },
}

fn near_valid() -> impl Strategy<Value = (u16, usize, Framing)> {
    let length = (
        prop::sample::select(vec!["", "", "", "+", "-", "0", "0x", "1"]),
        0usize..3,
        prop::sample::select(vec![0i64, 0, 0, 1, -1, 500, -500]),
    );
    let length = length.prop_map(|(prefix, repeated, surplus)| Framing::Length {
        values: vec![prefix.to_string(); 1 + repeated / 2],
        surplus,
    });
    let defects = vec![
        None,
        None,
        None,
        Some(("\r\n0\r\n", "\r\n")),
        Some(("\r\n0\r\n", "\n0\n")),
        Some(("\r\n0\r\n", "\r\n-0\r\n")),
        Some(("\r\n0\r\n", "x\r\n0\r\n")),
        Some(("\r\n0\r\n", "\r\n\r\n")),
        Some(("\r\n0\r\n", "\r\n1\r\n")),
        Some(("\r\n0\r\n", "\r\nffffffffffffffff\r\n")),
    ];
    let extension = prop::sample::select(vec!["", "", ";a=b", " "]);
    let trailer = prop::sample::select(vec!["", "", "A: b\r\n", "A: b\r\nC: d\r\n"]);
    let chunked = (
        1usize..4000,
        extension,
        trailer,
        prop::sample::select(defects),
        prop::sample::select(vec![0usize, 0, 0, 1, 2, 3, 7]),
    );
    let chunked = chunked.prop_map(|(chunk, extension, trailer, defect, cut)| Framing::Chunked {
        chunk,
        extension,
        trailer,
        defect,
        cut,
    });
    let status = prop::sample::select(vec![200u16, 200, 200, 200, 200, 201, 204, 206, 304, 404, 416, 500]);
    (status, 0usize..3000, prop_oneof![1 => Just(Framing::UntilClose), 3 => length, 4 => chunked])
}

/// The answer, and whether it is right.
fn answer(status: u16, body: &[u8], framing: &Framing) -> (Vec<u8>, bool) {
    let mut text = format!("HTTP/1.1 {status} Reason\r\n").into_bytes();
    let right = match framing {
        Framing::UntilClose => {
            text.extend([b"\r\n", body].concat());
            true
        }
        Framing::Length { values, surplus } => {
            let length = body.len().to_string();
            for prefix in values {
                text.extend(format!("Content-Length: {prefix}{length}\r\n").into_bytes());
            }
            let kept = (body.len() as i64 + surplus).clamp(0, body.len() as i64) as usize;
            text.extend([b"\r\n", &body[..kept], &vec![b'x'; (*surplus).max(0) as usize]].concat());
            let exact = *surplus >= 0 || body.is_empty();
            values.len() == 1 && ["", "0"].contains(&values[0].as_str()) && exact && *surplus <= 0
        }
        Framing::Chunked { chunk, extension, trailer, defect, cut } => {
            let mut chunked = Vec::new();
            for part in body.chunks(*chunk) {
                chunked.extend([format!("{:x}{extension}\r\n", part.len()).as_bytes(), part, b"\r\n"].concat());
            }
            chunked.extend(format!("0{extension}\r\n{trailer}\r\n").into_bytes());
            if let Some((old, new)) = defect
                && !body.is_empty()
                && extension.is_empty()
            {
                let at = chunked.windows(old.len()).rposition(|window| window == old.as_bytes()).unwrap();
                chunked.splice(at..at + old.len(), new.bytes());
            }
            let damaged = *cut > 0 || defect.is_some() && !body.is_empty() && extension.is_empty();
            chunked.truncate(chunked.len().saturating_sub(*cut));
            text.extend([&b"Transfer-Encoding: chunked\r\n\r\n"[..], &chunked].concat());
            !damaged
        }
    };
    (text, right && status == 200)
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        3 => Just(Fault::None),
        3 => (0usize..400_000).prop_map(Fault::Cut),
        1 => prop::sample::select(vec![1, -1, 4096, -4096]).prop_map(Fault::Shifted),
        2 => (1usize..400_000).prop_map(Fault::Short),
        1 => prop::sample::select(vec![1, -1, -300_000]).prop_map(Fault::WrongTotal),
        1 => Just(Fault::NoEtag),
        1 => Just(Fault::WeakEtag),
        1 => Just(Fault::WholeFile),
        1 => prop::sample::select(vec!["503 Busy", "404 None", "416 No Range", "204 Empty"]).prop_map(Fault::Status),
    ]
}

proptest! {
    #![proptest_config(cases(20))]

    #[test]
    fn any_answer_ends_the_download_with_the_old_content_or_a_new_one(batch in prop::collection::vec(soup(), BATCH)) {
        let answers = Answers::new();
        answers.each(&batch, |answer| {
            let content = answers.download(bytes(answer.clone()), &["--retry", "0", "--timeout", "3"])?;
            prop_assert!(content.is_none_or(|content| content.len() <= answer.len()));
            Ok(())
        })?;
    }

    #[test]
    fn an_answer_is_accepted_if_and_only_if_it_is_right(batch in prop::collection::vec(near_valid(), BATCH)) {
        let answers = Answers::new();
        answers.each(&batch, |(status, len, framing)| {
            let body = content(*len);
            let (answer, right) = answer(*status, &body, framing);
            let content = answers.download(bytes(answer), &["--retry", "0", "--timeout", "3"])?;
            prop_assert_eq!(content.is_some(), right, "{} {} {:?}", status, len, framing);
            prop_assert!(content.is_none_or(|content| content == body));
            Ok(())
        })?;
    }
}

proptest! {
    #![proptest_config(cases(6))]

    #[test]
    fn the_answers_of_a_faulty_server_never_add_up_to_another_file(
        batch in prop::collection::vec((prop::collection::vec(fault(), 0..6), 0usize..12, 1usize..4), BATCH),
    ) {
        let answers = Answers::new();
        let (old, mut new) = (content(900_001), content(900_001));
        new.iter_mut().for_each(|byte| *byte = !*byte);
        answers.each(&batch, |(faults, changes_at, connections)| {
            let (faults, changes_at, versions) = (faults.clone(), *changes_at, [old.clone(), new.clone()]);
            let respond: Respond = Box::new(move |number, request, stream| {
                let version = usize::from(number >= changes_at);
                let fault = faults.get(number).copied().unwrap_or(Fault::None);
                faulty(request, stream, &versions[version], ["\"v1\"", "\"v2\""][version], fault)
            });
            let args = ["-b", "128K", "--retry", "2", "--timeout", "3", "--connections", &connections.to_string()];
            if let Some(content) = answers.download(respond, &args)? {
                prop_assert!(content == old || content == new, "{} bytes", content.len());
            }
            Ok(())
        })?;
    }
}

#[test]
fn an_answer_without_an_end_ends_the_download() {
    let answers = Answers::new();
    let (head, chunked) = ("HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    let cases = [
        (String::new(), "H"),
        (String::new(), "HTTP/1.1 100 Continue\r\n\r\n"),
        (String::new(), "HTTP/1.1 103 Early Hints\r\nA: b\r\n\r\n"),
        (head.to_string(), "x"),
        (head.to_string(), "A: b\r\n"),
        (head.to_string(), "A:\r\n b\r\n"),
        (chunked.to_string(), "0"),
        (chunked.to_string(), "5;"),
        (format!("{chunked}5\r\nhello"), "x"),
        (format!("{chunked}5\r\nhello\r\n0\r\n"), "x"),
        (format!("{chunked}5\r\nhello\r\n0\r\n"), "A: b\r\n"),
        (format!("{head}Content-Length: 5\r\n\r\n"), "hello"),
    ];
    let result = answers.each(&cases, |(start, more)| {
        let (start, more) = (start.clone(), more.repeat(1000));
        let respond: Respond = Box::new(move |_, _, stream| {
            let mut sent = stream.write_all(start.as_bytes()).is_ok();
            while sent {
                sent = stream.write_all(more.as_bytes()).is_ok();
            }
            false
        });
        let content = answers.download(respond, &["--retry", "0", "--timeout", "3"])?;
        prop_assert_eq!(content, None);
        Ok(())
    });
    if let Err(e) = result {
        panic!("{e}");
    }
}
