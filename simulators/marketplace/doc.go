// Package marketplace plays the outside world: any number of sales channels that speak HTTP, each with its own shown stock.
//
// A sale happens at its marketplace first. It lowers what the marketplace itself shows, or is refused line by line when too little is shown,
// and only then is reported to Onhand's public API, in order and until acknowledged. Inventory writes (absolute, delta, compare-and-set) come
// back from Onhand over the same listener. [Faults] make a channel slow, limited, wrong or silent, as real ones are, from a seed.
//
// What was reported, and what was lost on the way, is also in the channel's order list, GET /channels/<id>/orders, for as long as it is
// among the newest [rememberedOrders].
//
// Every channel lives under its own path: /channels/<id>/inventory, /orders, /sales, /cancellations, /returns, /faults and /stats.
package marketplace
