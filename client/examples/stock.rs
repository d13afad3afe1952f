//! Stock that can't oversell: twenty buyers, ten chairs, and ten of the buyers get one.
//!
//! ```sh
//! cargo run -p tally-node --bin tallyd -- dev          # in another terminal
//! cargo run -p tally-client --example stock
//! ```
//!
//! `TALLY_ENDPOINTS` names other nodes than those of `tallyd dev`, with commas between them.
//!
//! The floor is stored on the counter and holds for every writer. Each order is the key of its own write,
//! so a shop that falls over in between asks again, under the same order, and knows. Left for later: holds,
//! which take a chair out of the stock for the minutes of a checkout and give it back if nobody pays. A
//! floor alone has no notion of time, so here a chair is sold or it is not.

use std::error::Error as StdError;

use tally_client::{Client, Outcome, Result, reason};

const CHAIRS: i64 = 10;
const BUYERS: usize = 20;

enum Sale {
    Sold { left: i64 },
    SoldOut,
}

#[tokio::main]
async fn main() -> std::result::Result<(), Box<dyn StdError>> {
    let endpoints = std::env::var("TALLY_ENDPOINTS")
        .unwrap_or_else(|_| "127.0.0.1:7401,127.0.0.1:7402,127.0.0.1:7403".to_owned());
    let client = Client::connect(endpoints.split(',')).await?;
    let stock = client.counter("stock/chair");
    stock.add(0).await?;
    stock.configure().floor(0).await?;
    stock.set(CHAIRS).await?;

    // Stands for the shop's own order numbers, which never come twice.
    let day = std::process::id();
    let buyers: Vec<_> = (0..BUYERS)
        .map(|number| tokio::spawn(sell(client.clone(), format!("order-{day}-{number}"))))
        .collect();
    let mut sold = 0;
    for (number, buyer) in buyers.into_iter().enumerate() {
        match buyer.await?? {
            Sale::Sold { left } => {
                sold += 1;
                println!("buyer {number}: a chair, {left} left");
            }
            Sale::SoldOut => println!("buyer {number}: sold out"),
        }
    }
    let left = stock.get().await?.value;
    println!("{sold} sold, {left} left");
    assert_eq!((sold, left), (CHAIRS, 0), "each chair was sold, and none twice");
    client.close().await;
    Ok(())
}

/// Sells one chair under an order's number. However often it is asked for the same order, it sells one.
async fn sell(client: Client, order: String) -> Result<Sale> {
    loop {
        let take = client.counter("stock/chair").add(-1).idempotency_key(order.as_str()).await;
        match take {
            Ok(change) => return Ok(Sale::Sold { left: change.value }),
            Err(error) if error.reason() == reason::BELOW_FLOOR => return Ok(Sale::SoldOut),
            // Nobody knows, after all the time that a call may take. Under the same key it is safe to go
            // on asking; a shop would do so from a queue, and tell its buyer to wait.
            Err(error) if error.outcome() == Some(Outcome::Unknown) => {
                eprintln!("{order}: {error}");
            }
            Err(error) => return Err(error),
        }
    }
}
