//! A user's own simulation: a shop that sells bounded stock, and must neither oversell nor lose an
//! order while nodes lose power and links are cut. The shop is theirs, the cluster is ours.

use std::{cell::Cell, rc::Rc, time::Duration};

use tally_client::{Client, apply::Operation, reason};
use tally_sim::{
    Cluster,
    player::{self, Recorder},
    trace::{self, Detail, Keep},
    trace_event,
};

/// Pieces on stock.
const STOCK: i64 = 30;

/// What a customer is told.
#[derive(Debug, PartialEq, Eq)]
enum Sale {
    Sold,
    SoldOut,
    /// The order may have been taken. It is asked again under its number, until it is known.
    Again,
}

/// Takes a piece from the stock and writes the order, or does neither; once for an order number.
async fn sell(client: &Client, order: &str) -> Sale {
    let sold = client
        .apply()
        .then(Operation::counter_add("stock", -1))
        .then(Operation::key_put(format!("order/{order}"), "paid"))
        .idempotency_key(order)
        .await;
    match sold {
        Ok(_) => Sale::Sold,
        Err(error) if error.reason() == reason::BELOW_FLOOR => Sale::SoldOut,
        // Not applied or unknown: the order number makes asking again safe.
        Err(_) => Sale::Again,
    }
}

#[test]
fn a_shop_sells_each_piece_once_whatever_breaks() {
    let seed = 7;
    tally_sim::prepare_thread(seed);
    // For a page that plays it all, the shop's own events among the cluster's.
    let _trace = trace::begin(Detail::Events, Keep::Recording);
    let mut recorder = Recorder::default();
    let mut sim = tally_sim::builder(seed).simulation_duration(Duration::from_secs(120)).build();
    let cluster = Cluster::builder(seed).nodes(3).start(&mut sim);
    let (open, sold) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(0)));

    let (owner, opens) = (cluster.client(100), Rc::clone(&open));
    sim.client("owner", async move {
        let client = owner.deadline(Duration::from_secs(30)).build()?;
        client.counter("stock").configure().floor(0).ceiling(STOCK).await?;
        client.counter("stock").add(STOCK).idempotency_key("delivery-1").await?;
        opens.set(true);
        Ok(())
    });
    for till in 0..3_u64 {
        let (client, open, sold) = (cluster.client(till), Rc::clone(&open), Rc::clone(&sold));
        sim.client(format!("till-{till}"), async move {
            let client = client.deadline(Duration::from_millis(900)).build()?;
            while !open.get() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            // More customers than pieces.
            for customer in 0..40 {
                let order = format!("{till}-{customer}");
                loop {
                    match sell(&client, &order).await {
                        Sale::Sold => {
                            sold.set(sold.get() + 1);
                            trace_event!(&format!("till {till}"), "has sold order {order}");
                        }
                        Sale::SoldOut => {}
                        Sale::Again => continue,
                    }
                    break;
                }
                tokio::time::sleep(Duration::from_millis(250)).await;
            }
            Ok(())
        });
    }

    // The faults are turmoil's, and the machines' own.
    let mut now_ms = 0;
    let mut done = false;
    while !done {
        match now_ms {
            2_000 => {
                let leader = cluster.leader().expect("somebody leads by now");
                cluster.cut_power(&mut sim, leader);
            }
            3_500 => (1..=3).for_each(|id| {
                if cluster.consensus(id).is_none() {
                    cluster.restart(&mut sim, id);
                }
            }),
            4_500 => sim.partition("tally-1", "tally-2"),
            6_000 => sim.repair("tally-1", "tally-2"),
            6_500 => (1..=3).for_each(|id| cluster.cut_power(&mut sim, id)),
            7_500 => (1..=3).for_each(|id| cluster.restart(&mut sim, id)),
            _ => {}
        }
        trace::set_now(Duration::from_millis(now_ms));
        recorder.look(&sim, &cluster, None, now_ms);
        done = sim.step().expect("no till gives up");
        now_ms += tally_sim::TICK_MS;
    }

    let recording = player::of_this_thread("a shop", now_ms, recorder, &[]);
    let sales = recording.lines.iter().filter(|(_, _, text)| text.contains("has sold order"));
    assert_eq!(sales.count() as i64, STOCK, "the page tells of each");
    let page = std::env::temp_dir().join(format!("tally-shop-{}.html", std::process::id()));
    recording.write_html(&page).expect("the page is written");
    std::fs::remove_file(&page).expect("it was");

    assert!(now_ms > 7_500, "it went on through all faults: {now_ms} ms");
    assert_eq!(sold.get(), STOCK, "each piece was sold once, as the customers know it");
    let leader = cluster.leader().expect("somebody leads");
    let consensus = cluster.consensus(leader).expect("it runs");
    let view = consensus.state().view();
    let stock = tally_node::machine::query::counter(&view, "stock").expect("there is a stock");
    assert_eq!(stock.value, 0, "and the counter agrees");
}
