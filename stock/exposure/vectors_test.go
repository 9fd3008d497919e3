package exposure

import (
	"errors"
	"testing"

	"github.com/onhand/onhand/stock/write"
)

// The worked cases of the design, X1 to X7.

func exposed(available Units, channels ...Channel) *SKU {
	return &SKU{Available: available, Channels: channels}
}

func shows(e, belief Units) Channel { return Channel{e: e, belief: belief, known: true} }

func TestX1AbsoluteOnTopOfUnseenSales(t *testing.T) {
	s := exposed(10, shows(5, 2)) // three sold unseen
	var room *RoomError
	if err := s.Send(0, Write{Operation: write.Absolute, Quantity: 8}); !errors.As(err, &room) || room.Need != 8 || room.Room != 5 {
		t.Errorf("setting 8 beside an exposure of 5 of 10: %v", err)
	}
}

func TestX2CompareAndSetFailsAndLearns(t *testing.T) {
	s := exposed(10, shows(5, 5))
	if err := s.Send(0, Write{Operation: write.CompareAndSet, Expected: 5, Quantity: 8}); err != nil || s.Channels[0].Exposure() != 8 {
		t.Fatalf("%v, exposure %d", err, s.Channels[0].Exposure())
	}
	s.Channels[0].RefusedShowing(2, 100)
	if e := s.Channels[0].Exposure(); e != 5 {
		t.Fatalf("exposure %d after the refusal; want 5", e)
	}
	if err := s.Send(0, Write{Operation: write.CompareAndSet, Expected: 2, Quantity: 5}); err != nil {
		t.Fatal(err)
	}
	s.Channels[0].Applied(200, 0, false)
	if e := s.Channels[0].Exposure(); e != 8 {
		t.Errorf("exposure %d; want 8", e)
	}
}

func TestX3DeltaUp(t *testing.T) {
	s := exposed(10, shows(5, 2))
	if err := s.Send(0, Write{Operation: write.Delta, Delta: 3}); err != nil {
		t.Fatal(err)
	}
	s.Channels[0].Applied(100, 5, true)
	if e := s.Channels[0].Exposure(); e != 8 {
		t.Errorf("exposure %d; want 8", e)
	}
}

func TestX4MoveWaitsForTheDecrease(t *testing.T) {
	s := exposed(10, shows(6, 4), shows(4, 4))
	if err := s.Send(0, Write{Operation: write.Delta, Delta: -3}); err != nil {
		t.Fatal(err)
	}
	if err := s.Send(1, Write{Operation: write.Delta, Delta: 3}); err == nil {
		t.Fatal("the raise went out before the decrease was known")
	}
	s.Channels[0].Applied(100, 1, true)
	if err := s.Send(1, Write{Operation: write.Delta, Delta: 3}); err != nil {
		t.Fatal(err)
	}
	if a, b := s.Channels[0].Exposure(), s.Channels[1].Exposure(); a != 3 || b != 7 {
		t.Errorf("exposures %d and %d; want 3 and 7", a, b)
	}
}

// TestX5DecreaseMeetsAnEmptyShelf: five of six are sold unseen when three are taken off. Nothing is credited before the watermark has passed.
func TestX5DecreaseMeetsAnEmptyShelf(t *testing.T) {
	s := exposed(6, shows(6, 6))
	if err := s.Send(0, Write{Operation: write.Delta, Delta: -3}); err != nil {
		t.Fatal(err)
	}
	c := &s.Channels[0]
	c.Applied(100, 0, true)
	if c.Exposure() != 6 {
		t.Fatalf("exposure %d at the acknowledgement; want 6", c.Exposure())
	}
	for range 5 {
		s.Sold(0, 1, 50)
	}
	c.Seen(100)
	if c.Exposure() != 0 || s.Room() != 1 {
		t.Errorf("exposure %d, room %d; want 0 and 1", c.Exposure(), s.Room())
	}
}

func TestX6RepeatedDelta(t *testing.T) {
	s := exposed(10, shows(2, 2))
	if err := s.Send(0, Write{Operation: write.Delta, Delta: 2}); err != nil {
		t.Fatal(err)
	}
	c := &s.Channels[0]
	c.Unknown()
	if c.Exposure() != 4 {
		t.Fatalf("exposure %d while nobody knows; want 4", c.Exposure())
	}
	if err := s.Send(0, Write{Operation: write.Delta, Delta: 2}); !errors.Is(err, ErrInFlight) {
		t.Fatalf("a second write beside one in doubt: %v", err)
	}
	c.Read(2, 100) // it did not arrive
	c.Seen(100)
	if c.Exposure() != 2 {
		t.Errorf("exposure %d after the read; want 2", c.Exposure())
	}
}

func TestX7Quiesce(t *testing.T) {
	s := exposed(10, shows(5, 5))
	c := &s.Channels[0]
	if err := s.Send(0, Write{Operation: write.Absolute}); err != nil {
		t.Fatal(err)
	}
	c.Applied(100, 0, false)
	for range 3 { // late
		s.Sold(0, 1, 80)
	}
	if s.Room() != 5 {
		t.Fatalf("room %d before the watermark; want 5", s.Room())
	}
	c.Seen(100)
	if c.Exposure() != 0 || s.Available != 7 {
		t.Fatalf("exposure %d of %d; want 0 of 7", c.Exposure(), s.Available)
	}
	if err := s.Send(0, Write{Operation: write.Absolute, Quantity: 7}); err != nil || c.Exposure() != 7 {
		t.Errorf("%v, exposure %d; want all 7", err, c.Exposure())
	}
}

// TestBreachAndRaise: what shows that an assumption does not hold is said, and counted at its worst.
func TestBreachAndRaise(t *testing.T) {
	s := exposed(10, shows(1, 1))
	if breach := s.Sold(0, 3, 10); breach != 2 || s.Channels[0].Exposure() != 0 {
		t.Errorf("breach %d, exposure %d; want 2 and 0", breach, s.Channels[0].Exposure())
	}
	if raised, _ := s.Channels[0].Read(4, 100); raised != 4 || s.Channels[0].Exposure() != 4 {
		t.Errorf("raised %d, exposure %d; want 4 and 4", raised, s.Channels[0].Exposure())
	}
	if s.Room() != 3 {
		t.Errorf("room %d; want 3", s.Room())
	}
}
