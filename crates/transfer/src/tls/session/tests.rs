//! Both ends in one process, honest and not.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::super::{Identity, accept, connect};
use super::*;

/// Donor and recipient, through the handshake.
fn pair() -> (Session, Session) {
    let (mut here, mut there) = UnixStream::pair().unwrap();
    let identity = Identity::generate().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    std::thread::scope(|scope| {
        let donor = scope.spawn(|| accept(&identity, &mut here, deadline).unwrap());
        let recipient = connect(identity.fingerprint, &mut there, deadline).unwrap();
        (donor.join().unwrap(), recipient)
    })
}

fn sealed(session: &mut Session, content: &[u8]) -> Vec<u8> {
    let mut wire = vec![0; Session::sealed_len(content.len())];
    let len = session.seal(content, &mut [], &mut wire).unwrap();
    wire.truncate(len);
    wire
}

fn opened(session: &mut Session, wire: &mut [u8]) -> Result<Vec<u8>> {
    let mut content = vec![0; wire.len()];
    let (mut to, mut at) = (0, 0);
    while let Opened::Content { content: len, wire: used } =
        session.open(&mut wire[at..], &mut content[to..])?
    {
        (to, at) = (to + len, at + used);
    }
    assert_eq!(at, wire.len(), "all is used up");
    content.truncate(to);
    Ok(content)
}

fn some_content(len: u32) -> Vec<u8> {
    (0..len).map(|i| (i % 251) as u8).collect()
}

#[test]
fn what_one_end_seals_the_other_opens_both_ways() {
    let (mut donor, mut recipient) = pair();
    let content = some_content(100_000);
    for _ in 0..3 {
        assert!(opened(&mut recipient, &mut sealed(&mut donor, &content)).unwrap() == content);
        assert_eq!(opened(&mut donor, &mut sealed(&mut recipient, b"more")).unwrap(), b"more");
    }
}

#[test]
fn a_record_that_is_cut_waits_for_its_rest() {
    let (mut donor, mut recipient) = pair();
    let mut wire = sealed(&mut donor, &[3; 1000]);
    let mut content = [0; 2000];
    let most = wire.len() - 1;
    for len in [0, 4, 5, 600, most] {
        assert_eq!(recipient.open(&mut wire[..len], &mut content).unwrap(), Opened::Partial, "{len} bytes");
    }
    assert_eq!(opened(&mut recipient, &mut wire).unwrap(), [3; 1000]);
}

#[test]
fn a_flipped_bit_anywhere_behind_a_records_header_is_refused() {
    for at in [5, 6, 500, 1005, 1021] {
        let (mut donor, mut recipient) = pair();
        let mut wire = sealed(&mut donor, &[3; 1000]);
        wire[at] ^= 1;
        assert!(opened(&mut recipient, &mut wire).is_err(), "byte {at}");
    }
}

#[test]
fn records_out_of_order_are_refused() {
    let (mut donor, mut recipient) = pair();
    let _first = sealed(&mut donor, b"first");
    let mut second = sealed(&mut donor, b"second");
    assert!(opened(&mut recipient, &mut second).is_err());
}

/// A record as only a dishonest recipient makes it.
fn forged(recipient: Session, inner: &[u8], inner_type: u8) -> Vec<u8> {
    use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
    let End::Recipient(connection) = recipient.end else { panic!("the recipient is a client") };
    let (_, secrets) = connection.dangerous_into_kernel_connection().unwrap().0.tx;
    let rustls::ConnectionTrafficSecrets::Aes128Gcm { key, iv } = secrets else { panic!("the first choice") };
    let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, key.as_ref()).unwrap());
    let nonce = Nonce::try_assume_unique_for_key(iv.as_ref()).unwrap();
    let header = [23, 3, 3, 0, (inner.len() + 1 + TAG_LEN) as u8];
    let mut body = [inner, &[inner_type]].concat();
    key.seal_in_place_append_tag(nonce, Aad::from(header), &mut body).unwrap();
    [&header[..], &body].concat()
}

#[test]
fn pieces_of_the_protocols_own_messages_do_no_harm() {
    const HANDSHAKE: u8 = 22;
    const KEY_UPDATE: u8 = 24;
    for message in [&[KEY_UPDATE][..], &[KEY_UPDATE, 0, 0], &[KEY_UPDATE, 0, 0, 1, 1, KEY_UPDATE], &[99; 40]]
    {
        let (mut donor, recipient) = pair();
        let mut wire = forged(recipient, message, HANDSHAKE);
        let (mut at, mut content) = (0, [0; 2000]);
        let stopped = loop {
            match donor.open(&mut wire[at..], &mut content) {
                Ok(Opened::Content { content: 0, wire }) => at += wire,
                other => break other,
            }
        };
        assert!(!matches!(stopped, Ok(Opened::Content { .. })), "{message:?} is no content: {stopped:?}");
        // Whether it still sends does not matter, but that it does not fall over.
        let _ = donor.seal(b"more", &mut wire[at..], &mut [0; 2000]);
    }
}

#[test]
fn keys_may_change_in_mid_transfer() {
    let (mut donor, mut recipient) = pair();
    let content = some_content(40_000);
    for _ in 0..3 {
        let End::Donor(connection) = &mut donor.end else { panic!("the donor is a server") };
        let status = connection.process_tls_records(&mut []);
        let Ok(ConnectionState::WriteTraffic(traffic)) = status.state else { panic!("it may write") };
        traffic.refresh_traffic_keys().unwrap();
        assert!(opened(&mut recipient, &mut sealed(&mut donor, &content)).unwrap() == content);
        assert_eq!(opened(&mut donor, &mut sealed(&mut recipient, b"thanks")).unwrap(), b"thanks");
    }
}

#[test]
fn another_certificate_than_the_offered_one_is_refused() {
    let (mut here, mut there) = UnixStream::pair().unwrap();
    let (identity, other) = (Identity::generate().unwrap(), Identity::generate().unwrap());
    let deadline = Instant::now() + Duration::from_secs(20);
    std::thread::scope(|scope| {
        let donor = scope.spawn(|| accept(&identity, &mut here, deadline));
        let refused = connect(other.fingerprint, &mut there, deadline);
        assert!(matches!(refused, Err(Error::Fingerprint)));
        let told = donor.join().unwrap();
        assert!(matches!(told, Err(Error::Tls(rustls::Error::AlertReceived(_)))), "the donor hears why");
    });
}

#[test]
fn a_silent_end_is_named_as_such() {
    let (mut here, _there) = UnixStream::pair().unwrap();
    here.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
    let identity = Identity::generate().unwrap();
    let deadline = Instant::now() + Duration::from_millis(20);
    let error = connect(identity.fingerprint, &mut here, deadline).err().unwrap();
    let Error::Network { source, .. } = &error else { panic!("{error:?}") };
    assert_eq!(source.to_string(), "the other end does not answer");
}

/// Damages one byte of what is written.
struct Damaging {
    socket: UnixStream,
    at: usize,
    written: usize,
}

impl Read for Damaging {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.read(buffer)
    }
}

impl Write for Damaging {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut bytes = bytes.to_vec();
        if let Some(byte) = self.at.checked_sub(self.written).and_then(|at| bytes.get_mut(at)) {
            *byte ^= 0x41;
        }
        self.socket.write_all(&bytes)?;
        self.written += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_damaged_byte_anywhere_in_the_handshake_only_fails_it() {
    let identity = Identity::generate().unwrap();
    let damaging = |socket: UnixStream, at| {
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        Damaging { socket, at, written: 0 }
    };
    let mut failed = 0;
    for at in 0..60 {
        // Some 300 bytes travel to the donor and 700 back.
        for (to_donor, to_recipient) in [(at * 5, usize::MAX), (usize::MAX, at * 12)] {
            let (here, there) = UnixStream::pair().unwrap();
            let (mut here, mut there) = (damaging(here, to_recipient), damaging(there, to_donor));
            let deadline = Instant::now() + Duration::from_millis(100);
            let outcomes = std::thread::scope(|scope| {
                let donor = scope.spawn(|| accept(&identity, &mut here, deadline).is_ok());
                let recipient = connect(identity.fingerprint, &mut there, deadline).is_ok();
                (donor.join().unwrap(), recipient)
            });
            failed += usize::from(!outcomes.0 || !outcomes.1);
        }
    }
    assert!(failed > 80, "{failed} of 120 failed");
}
