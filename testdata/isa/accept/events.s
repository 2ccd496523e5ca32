; Three rounds in which each of four PEs adds its neighbour's number to its own, through an `inout` tensor: one event says that
; numbers are there, another that they have been read.
object "events" target "mtia-300" hbm 256 sram 0

origin o0 "/ring" "Sum"

kernel k0 "ring" grid 1x1x1x4 {
  tensor r0 inout bytes 16 planes 0 16 16
  tensor r1 out bytes 48 planes 0 48 48
  tensor r2 in bytes 16 planes 0 16 16
  buffer b0 "x" local 4 x 2
  buffer b1 "y" local 4 x 2
  view v0 f32 local k4 offset 0 (1:1, 1:1, 1:1, 1:1, 1:1)
  view v1 f32 global r0 k4 offset 0 (1:0, 1:0, 1:0, 1:0, 1:1<4) p3:d4+1
  view v2 f32 global r0 k4 offset 3 (1:0, 1:0, 1:0, 1:0, 1:-1<4) p3:d4+1
  view v3 f32 global r1 k4 offset 0 (1:0, 1:0, 1:0, 1:4<3, 1:1<4) l0:d3+1 p3:d4+1
  view v4 f32 global r2 k4 offset 0 (1:0, 1:0, 1:0, 1:0, 1:1<4) p3:d4+1
  trip t0 3 max 3
  program p0 "add" domain v0 parallel 5 {
    stream s0 b0-:v0 floor
    stream s1 b1-:v0 floor
    stream s2 b0+:v0 floor
    body:
      load.f32 r0, s0
      load.f32 r1, s1
      binary.add.f32 r0, r0, r1
      store.f32 s2, r0
  }
  code:
    ld b0+:v0, v4
    loop t0, l0, stages=1
      st b0:v0, v1
      post e0, fi.store
      wait e0, fi.load, count=4
      ld b1+:v0, v2
      post e1, fi.load
      wait e1, fi.store, count=4
      run p0
      st b0:v0, v3
    end
    pop b0, n=1
    halt
}

entry e0 "main" {
  input "x" f32 (4) hbm:0
  output "y" f32 (3, 4) hbm:64
  launch #0 k0 (hbm:128, hbm:64, hbm:0) o0
  code:
    launch #0
    halt
}

weights 0 {
}
