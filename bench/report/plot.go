package report

import (
	"bytes"
	"fmt"
	"image/color"
	"math"
	"slices"
	"strconv"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// Plot is a picture of a report.
type Plot struct {
	Name    string // of its file, without extension
	Title   string
	Caption string
	SVG     []byte
}

// Size of all pictures: text of a few points can be read in two columns, and on a telephone.
const (
	width  = 15 * vg.Centimeter
	height = 9 * vg.Centimeter
)

// colors can be told apart by those who do not see red and green: Okabe and Ito,
// Color Universal Design.
var colors = []color.Color{
	color.RGBA{0x00, 0x72, 0xb2, 0xff}, color.RGBA{0xd5, 0x5e, 0x00, 0xff}, color.RGBA{0x00, 0x9e, 0x73, 0xff},
	color.RGBA{0xcc, 0x79, 0xa7, 0xff}, color.RGBA{0xe6, 0x9f, 0x00, 0xff}, color.RGBA{0x56, 0xb4, 0xe9, 0xff}, color.RGBA{0x33, 0x33, 0x33, 0xff},
	color.RGBA{0xb8, 0xa9, 0x00, 0xff},
}

// line is one of a picture's.
type line struct {
	name   string
	points plotter.XYs
	steps  bool // a distribution, not a curve through points
	beside bool // in the color of the line before it, dashed: what that is compared with
}

// axis is one of a picture's two.
type axis struct {
	label string
	log   bool
	zero  bool // begins at 0
}

// lines draws lines.
func lines(x, y axis, all []line) ([]byte, error) {
	p := sans()
	p.X.Label.Text, p.Y.Label.Text = x.label, y.label
	p.Add(grid())
	hue := -1
	for _, l := range all {
		if !l.beside {
			hue++
		}
		drawn, err := plotter.NewLine(l.points)
		if err != nil {
			return nil, fmt.Errorf("draw %s: %w", l.name, err)
		}
		drawn.Color, drawn.Width = colors[max(hue, 0)%len(colors)], vg.Points(1.6)
		if l.beside || hue >= len(colors) {
			drawn.Dashes = []vg.Length{vg.Points(5), vg.Points(3)}
		}
		if l.steps {
			drawn.StepStyle = plotter.PostStep
			p.Add(drawn)
		} else {
			dots, err := plotter.NewScatter(l.points)
			if err != nil {
				return nil, fmt.Errorf("draw %s: %w", l.name, err)
			}
			dots.Color, dots.Shape, dots.Radius = drawn.Color, draw.CircleGlyph{}, vg.Points(2.6)
			p.Add(drawn, dots)
		}
		p.Legend.Add(l.name, drawn)
	}
	scale(&p.X, x)
	scale(&p.Y, y)
	return svg(beside(p))
}

// sans is an empty picture with the font of the page.
func sans() *plot.Plot {
	p := plot.New()
	for _, f := range []*font.Font{
		&p.X.Label.TextStyle.Font, &p.Y.Label.TextStyle.Font, &p.X.Tick.Label.Font, &p.Y.Tick.Label.Font, &p.Legend.TextStyle.Font,
	} {
		f.Variant = "Sans"
	}
	return p
}

// scale gives an axis its kind.
func scale(a *plot.Axis, want axis) {
	if want.zero {
		a.Min = 0
	}
	if want.log {
		a.Scale, a.Tick.Marker = plot.LogScale{}, logTicks{}
		if a.Max <= a.Min {
			a.Min, a.Max = a.Min/2, a.Max*2
		}
		return
	}
	a.Tick.Marker = plot.TickerFunc(plainTicks)
}

// plainTicks are the usual ones, without digits that say nothing: 500, not 500.00.
func plainTicks(least, most float64) []plot.Tick {
	ticks := plot.DefaultTicks{}.Ticks(least, most)
	for i := range ticks {
		if v, err := strconv.ParseFloat(ticks[i].Label, 64); err == nil {
			ticks[i].Label = strconv.FormatFloat(v, 'f', -1, 64)
		}
	}
	return ticks
}

// logTicks marks powers of ten, and twice and five times them where few would be seen.
type logTicks struct{}

// Ticks implements [plot.Ticker].
func (logTicks) Ticks(least, most float64) []plot.Tick {
	var ticks []plot.Tick
	few := math.Log10(most/least) < 2.5
	for power := math.Floor(math.Log10(least)); power <= math.Ceil(math.Log10(most)); power++ {
		for digit := 1.0; digit < 10; digit++ {
			v := digit * math.Pow(10, power)
			if v < least*0.999 || v > most*1.001 {
				continue
			}
			t := plot.Tick{Value: v}
			if digit == 1 || few && (digit == 2 || digit == 5) {
				t.Label = fmt.Sprintf("%g", v)
			}
			ticks = append(ticks, t)
		}
	}
	return ticks
}

func grid() *plotter.Grid {
	g := plotter.NewGrid()
	g.Horizontal.Color, g.Vertical.Color = color.Gray{0xe4}, color.Gray{0xe4}
	return g
}

// beside draws the legend right of the picture, where it hides nothing.
func beside(p *plot.Plot) func(draw.Canvas) {
	legend := p.Legend
	p.Legend = plot.NewLegend()
	legend.Top, legend.Left, legend.Padding = true, true, vg.Points(3)
	legend.TextStyle.Font.Size = vg.Points(9)
	return func(c draw.Canvas) {
		// A browser that has another font writes wider.
		room := legend.Rectangle(c).Size().X*1.15 + vg.Points(12)
		p.Draw(draw.Crop(c, 0, -room, 0, 0))
		legend.Draw(draw.Crop(c, c.Size().X-room+vg.Points(12), 0, 0, 0))
	}
}

func svg(draws func(draw.Canvas)) ([]byte, error) {
	canvas := vgsvg.New(width, height)
	c := draw.New(canvas)
	draws(draw.Crop(c, vg.Points(6), -vg.Points(6), vg.Points(6), -vg.Points(6)))
	var b bytes.Buffer
	if _, err := canvas.WriteTo(&b); err != nil {
		return nil, fmt.Errorf("write picture: %w", err)
	}
	return b.Bytes(), nil
}

// cumulated is the distribution of values: the part of them that each does not exceed.
func cumulated(values []float64) plotter.XYs {
	sorted := slices.Sorted(slices.Values(values))
	points := plotter.XYs{{X: positive(sorted[0]), Y: 0}}
	for i, v := range sorted {
		points = append(points, plotter.XY{X: positive(v), Y: float64(i+1) / float64(len(sorted))})
	}
	return points
}

// positive is v, or what an axis with a logarithmic scale can show of 0.
func positive(v float64) float64 { return max(v, 1e-3) }

// bar is a part of a waterfall.
type bar struct {
	name       string
	from, long float64
}

// waterfall draws bars, the first on top, each from where it begins.
func waterfall(label string, bars []bar) ([]byte, error) {
	p := sans()
	p.X.Label.Text, p.X.Min = label, 0
	g := grid()
	g.Horizontal.Width = 0
	p.Add(g)
	names := make([]string, len(bars))
	for i, b := range bars {
		y := float64(len(bars) - 1 - i)
		names[int(y)] = b.name
		shape, err := plotter.NewPolygon(plotter.XYs{{X: b.from, Y: y - 0.35}, {X: b.from + b.long, Y: y - 0.35}, {X: b.from + b.long, Y: y + 0.35}, {X: b.from, Y: y + 0.35}})
		if err != nil {
			return nil, fmt.Errorf("draw %s: %w", b.name, err)
		}
		shape.Color, shape.Width = colors[i%len(colors)], 0
		text, err := plotter.NewLabels(plotter.XYLabels{XYs: plotter.XYs{{X: b.from + b.long, Y: y - 0.12}}, Labels: []string{number(b.long)}})
		if err != nil {
			return nil, fmt.Errorf("label %s: %w", b.name, err)
		}
		text.Offset.X = vg.Points(4)
		p.Add(shape, text)
	}
	p.NominalY(names...)
	p.Y.Min, p.Y.Max = -0.6, float64(len(bars))-0.4
	p.X.Tick.Marker = plot.TickerFunc(plainTicks)
	p.X.Max *= 1.12
	return svg(p.Draw)
}
