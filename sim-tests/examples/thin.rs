use std::time::Duration;
fn main() {
    let seed: u64 = std::env::args().nth(1).unwrap().parse().unwrap();
    let secs: u64 = std::env::args().nth(2).unwrap().parse().unwrap();
    tally_sim::prepare_thread(seed);
    let mut sim =
        tally_sim::builder(seed).simulation_duration(Duration::from_secs(secs + 30)).build();
    let cluster = tally_sim::Cluster::builder(seed).nodes(3).start(&mut sim);
    for c in 0..4 {
        let client = cluster.client(c);
        sim.client(format!("c{c}"), async move {
            let client = client.build()?;
            let mut n = 0;
            let start = tokio::time::Instant::now();
            while start.elapsed() < Duration::from_secs(secs) {
                client.counter("sold").add(1).await?;
                n += 1;
                tokio::time::sleep(Duration::from_millis(60)).await;
            }
            println!("client {c}: {n} {}", client.counter("sold").get().await?.value);
            Ok(())
        });
    }
    #[allow(clippy::disallowed_methods)]
    let t = std::time::Instant::now();
    sim.run().unwrap();
    println!("{secs} s in {:?}", t.elapsed());
}
