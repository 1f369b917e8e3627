//! A model of what was acknowledged, against three members to which, by a seed, everything happens.

use std::collections::BTreeMap;

use weft::model::time::{Dice, SeededDice};

use crate::cluster::Cluster;
use crate::support::eventually;
use crate::{id, known, mesh, register, registration, service};

#[test]
fn whatever_happens_what_was_acknowledged_is_known_to_all_in_the_end() {
    let seed = std::env::var("WEFT_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(7);
    println!("seed {seed}");
    let dice = SeededDice::new(seed);
    let roll = |below: u64| dice.roll() % below;
    let mut cluster = Cluster::start(3);
    let meshes = [mesh(&cluster), mesh(&cluster)];
    // By id, the ports it may be at; 0 is "not there". More than one while a change was refused, which may yet be made.
    let mut model: BTreeMap<String, Vec<u16>> = BTreeMap::new();
    let mut hurt: Option<(usize, bool)> = None;
    for step in 0..150_u16 {
        match (roll(12), hurt) {
            (0, None) => {
                let (member, dies) = (usize::try_from(roll(3)).expect("few"), roll(2) == 0);
                if dies {
                    cluster.kill(member);
                } else {
                    cluster.signal(member, "STOP");
                }
                hurt = Some((member, dies));
            }
            (1 | 2, Some((member, dies))) => {
                if dies {
                    cluster.run(member);
                } else {
                    cluster.signal(member, "CONT");
                }
                hurt = None;
            }
            _ => {}
        }
        let mesh = &meshes[usize::try_from(roll(2)).expect("few")];
        let name = format!("i{}", roll(8));
        let may_be = model.entry(name.clone()).or_insert_with(|| vec![0]);
        if roll(3) == 0 {
            match mesh.deregister(&service(), &id(&name)) {
                Ok(()) => {
                    *may_be = vec![0];
                    assert!(known(mesh).iter().all(|(known, _)| *known != name), "step {step}: {name} was acknowledged as gone");
                }
                // Not known here (yet); or not confirmed.
                Err(weft::mesh::RegistryError::NotFound) => {}
                Err(_) => may_be.push(0),
            }
        } else {
            let port = 1 + step;
            match mesh.register(registration(&name, port)) {
                Ok(()) => {
                    *may_be = vec![port];
                    assert!(known(mesh).contains(&(name, port)), "step {step}");
                }
                Err(_) => may_be.push(port),
            }
        }
    }
    if let Some((member, dies)) = hurt {
        if dies { cluster.run(member) } else { cluster.signal(member, "CONT") }
    }
    register(&meshes[0], "last", 999);
    model.insert("last".to_owned(), vec![999]);
    let is_right = |known: &[(String, u16)]| {
        let known: BTreeMap<&str, u16> = known.iter().map(|(id, port)| (id.as_str(), *port)).collect();
        model.iter().all(|(id, may_be)| may_be.contains(&known.get(id.as_str()).copied().unwrap_or(0)))
    };
    eventually("all know the same, and what was acknowledged", || {
        let (a, b) = (known(&meshes[0]), known(&meshes[1]));
        (a == b && is_right(&a)).then_some(())
    });
    let later = known(&mesh(&cluster));
    assert!(is_right(&later), "{later:?}, and may be {model:?}");
}
