//! Choosing a backend: a random draw, and a sticky client's.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tidegate::model::{Arm, ClientKey, Split, Weight, choose};
use tidegate::worker::{ClientId, CookieKey};

const BACKENDS: [(&str, f64); 3] = [("blue", 89.5), ("green", 10.0), ("canary", 0.5)];

fn weight(value: f64) -> Weight {
    Weight::new(value).expect("the weights above are weights")
}

fn random(criterion: &mut Criterion) {
    let split = Split::new(&BACKENDS.map(|(_, w)| weight(w))).expect("the weights above aren't all zero");
    let mut rng = StdRng::seed_from_u64(1);
    criterion.bench_function("split/random", |b| b.iter(|| split.pick(rng.next_u64())));
}

fn sticky(criterion: &mut Criterion) {
    let arms = BACKENDS.map(|(name, w)| Arm::new(name, weight(w)));
    let mut client = 0u64;
    criterion.bench_function("split/sticky_by_header", |b| {
        b.iter(|| {
            client += 1;
            choose(&arms, ClientKey::new("shop", black_box(&client.to_le_bytes())))
        });
    });
    let key = CookieKey::new(&[7; 32]);
    let cookie = key.sign(ClientId::new([9; 16]));
    criterion.bench_function("split/sticky_by_cookie", |b| {
        b.iter(|| {
            let id = key.verify(black_box(&cookie)).expect("the key above signed it");
            choose(&arms, ClientKey::new("shop", id.as_bytes()))
        });
    });
}

criterion_group!(benches, random, sticky);
criterion_main!(benches);
