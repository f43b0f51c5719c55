//! iceoryx2's publish-subscribe between two processes, measured as netdisk's messages are: each message is
//! written into the memory from which it is read, and the other end sends one of the same size back (`lat`,
//! copied out of the one that came)
//! or reads a byte of every cache line (`stream`).
//!
//! `netdisk-peer-iceoryx2 lat|stream BYTES WARM_UP_MS MEASURE_MS CORE` prints one line of JSON, CORE being
//! where the other end runs: `{"samples": [[ns, count], …], "messages_per_s": …}`; samples are halves of
//! round trips.

use std::error::Error;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::prelude::*;

const CACHE_LINE_BYTES: usize = 64;
/// Messages that may wait for the subscriber.
const BUFFERED: usize = 64;
/// An end that hears nothing for this long takes the other for dead.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// Looks between two looks at the clock.
const LOOKS: u32 = 100_000;

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        [kind @ ("lat" | "stream"), bytes, warm_up, measure, core] => {
            // The service's name holds our process id, so that two benches do not meet.
            let name = format!("netdisk-{}", std::process::id());
            let [warm_up, measure] = [warm_up, measure].map(|ms| ms.parse().map(Duration::from_millis));
            let ends = Ends::create(&name, "there", "back", bytes.parse()?)?;
            let far = if kind == "lat" { "echo" } else { "sink" };
            let _far = Far(start(core, &[far, bytes, &name])?);
            let told = match kind {
                "lat" => latency(&ends, bytes.parse()?, warm_up?, measure?)?,
                _ => stream(&ends, bytes.parse()?, warm_up?, measure?)?,
            };
            println!("{told}");
            Ok(())
        }
        ["echo", bytes, name] => echo(name, bytes.parse()?),
        ["sink", bytes, name] => sink(name, bytes.parse()?),
        _ => Err("usage: netdisk-peer-iceoryx2 lat|stream BYTES WARM_UP_MS MEASURE_MS CORE".into()),
    }
}

/// The other end. Dropping it kills the process.
struct Far(Child);

impl Drop for Far {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(core: &str, words: &[&str]) -> Outcome<Child> {
    let program = std::env::current_exe()?;
    Ok(Command::new("taskset").args(["-c", core]).arg(program).args(words).spawn()?)
}

/// One direction out, one in.
struct Ends {
    out: Publisher<ipc::Service, [u8], ()>,
    come: Subscriber<ipc::Service, [u8], ()>,
    _node: Node<ipc::Service>,
}

impl Ends {
    fn create(name: &str, out: &str, come: &str, bytes: usize) -> Outcome<Self> {
        let node = NodeBuilder::new().create::<ipc::Service>()?;
        let service = |direction: &str| -> Outcome<_> {
            let name = format!("{name}-{direction}");
            let builder = node.service_builder(&name.as_str().try_into()?).publish_subscribe::<[u8]>();
            let builder = builder.history_size(0).enable_safe_overflow(false);
            let builder = builder.subscriber_max_buffer_size(BUFFERED).max_publishers(1).max_subscribers(1);
            Ok(builder.open_or_create()?)
        };
        let out = service(out)?.publisher_builder().initial_max_slice_len(bytes).create()?;
        let come = service(come)?.subscriber_builder().create()?;
        Ok(Self { out, come, _node: node })
    }

    /// Copies a message into shared memory and hands it over; `false` if nobody takes it yet.
    fn send(&self, message: &[u8]) -> Outcome<bool> {
        let sample = self.out.loan_slice_uninit(message.len())?;
        Ok(sample.write_from_slice(message).send()? > 0)
    }

    /// Spins until a message is there and returns what `look` finds in it.
    fn receive<T>(&self, look: impl Fn(&[u8]) -> T) -> Outcome<T> {
        let mut deadline = None;
        loop {
            for _ in 0..LOOKS {
                if let Some(sample) = self.come.receive()? {
                    return Ok(look(sample.payload()));
                }
                std::hint::spin_loop();
            }
            if Instant::now() > *deadline.get_or_insert_with(|| Instant::now() + SILENCE_MAX) {
                return Err("the other end is silent".into());
            }
        }
    }
}

fn latency(ends: &Ends, bytes: usize, warm_up: Duration, measure: Duration) -> Outcome<String> {
    let message = vec![0x5a; bytes];
    while !ends.send(&message)? {
        std::thread::yield_now();
    }
    ends.receive(|_| ())?;
    let mut histogram = Histogram::<u64>::new_with_bounds(1, 60_000_000_000, 3)?;
    let begun = Instant::now();
    let mut now = begun;
    while now - begun < warm_up + measure {
        let asked = now;
        ends.send(&message)?;
        let length = ends.receive(<[u8]>::len)?;
        now = Instant::now();
        assert_eq!(length, bytes, "the answer is as long as the question");
        if asked - begun >= warm_up {
            histogram.saturating_record(((now - asked).as_nanos() as u64 / 2).max(1));
        }
    }
    let samples = histogram.iter_recorded();
    let pairs: Vec<_> =
        samples.map(|step| format!("[{},{}]", step.value_iterated_to(), step.count_at_value())).collect();
    Ok(format!("{{\"samples\": [{}], \"messages_per_s\": {}}}", pairs.join(","), 0))
}

fn stream(ends: &Ends, bytes: usize, warm_up: Duration, measure: Duration) -> Outcome<String> {
    let message = vec![0x5a; bytes];
    while !ends.send(&message)? {
        std::thread::yield_now();
    }
    let count = |time: Duration| -> Outcome<f64> {
        let (begun, mut sent) = (Instant::now(), 0_u64);
        while begun.elapsed() < time {
            // A full buffer makes the publisher wait, so what is sent is taken in.
            for _ in 0..8 {
                ends.send(&message)?;
            }
            sent += 8;
        }
        Ok(sent as f64 / begun.elapsed().as_secs_f64())
    };
    count(warm_up)?;
    Ok(format!("{{\"samples\": [], \"messages_per_s\": {}}}", count(measure)?))
}

fn echo(name: &str, bytes: usize) -> Outcome<()> {
    let ends = Ends::create(name, "back", "there", bytes)?;
    loop {
        ends.receive(|message| ends.send(message))??;
    }
}

fn sink(name: &str, bytes: usize) -> Outcome<()> {
    let ends = Ends::create(name, "back", "there", bytes)?;
    loop {
        let sum: u64 = ends.receive(|message| {
            message.iter().step_by(CACHE_LINE_BYTES).map(|byte| u64::from(*byte)).sum()
        })?;
        std::hint::black_box(sum);
    }
}
